# SPDX-License-Identifier: Apache-2.0
"""`earshot why`: what would become of a packet, and why. Nothing that is live is changed by it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from control import frames, pcap_file
from control.addresses import Endpoint, parse_endpoint
from control.cli.options import EXIT_FAILED, PATH, Command, form_option, pin_path_option, pinned_maps
from control.cli.output import Row, write_one

if TYPE_CHECKING:
    from control.datapath import Datapath


def _endpoint(ctx: click.Context, param: click.Parameter, text: str | None) -> Endpoint | None:
    try:
        return None if text is None else parse_endpoint(text)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


@click.command("why", cls=Command)
@click.argument("frame", metavar="[HEX]", required=False)
@click.option("--pcap", "capture", type=PATH, metavar="FILE", help="A packet of this file, pcap or pcapng.")
@click.option("--packet", "number", type=click.IntRange(1), default=1, show_default=True, metavar="N")
@click.option(
    "--from", "source", callback=_endpoint, metavar="ADDR:PORT", help="A made-up packet from here ..."
)
@click.option("--to", "destination", callback=_endpoint, metavar="ADDR:PORT", help="... to there.")
@click.option(
    "--class",
    "kind",
    type=click.Choice(["rtp", "dtls", "stun"]),
    default="rtp",
    show_default=True,
    help="What a made-up packet is. stun: a Binding Request, made by who knows the session's pwd.",
)
@click.option("--ufrag", help="The server's, of a made-up Binding Request.")
@click.option("--link", metavar="NAME", help="Where it comes in.  [default: where the host would answer it]")
@form_option
@pin_path_option
@click.pass_context
def why(
    ctx: click.Context,
    frame: str | None,
    capture: Path | None,
    number: int,
    source: Endpoint | None,
    destination: Endpoint | None,
    kind: str,
    ufrag: str | None,
    link: str | None,
    form: str,
    pin_path: Path,
) -> None:
    """Tell what the program would do with a packet, and why.

    The packet is an Ethernet frame as hex ("-": from stdin), one of a capture file, or made up for a 5-tuple.
    A second copy of the program is asked, with copies of what the packet can reach: no counter, no
    flow and no budget changes. To be run in the relay's network namespace, by root.

    Exit status 0: it would be forwarded; 1: it would not.

    \b
    Examples:
      earshot why --from 198.51.100.7:40000 --to 203.0.113.1:3478
      earshot why --from 198.51.100.7:40000 --to 203.0.113.1:3478 --class stun --ufrag Xk3f
      earshot why --pcap calls.pcapng --packet 17 -o json
    """
    from control.cli import why_report  # as in pinned_maps()

    given = [frame is not None, capture is not None, source is not None or destination is not None]
    if sum(given) != 1:
        raise click.UsageError("give one of: HEX, --pcap FILE, --from ADDR:PORT with --to ADDR:PORT")
    if given[2] and (source is None or destination is None):
        raise click.UsageError("--from and --to go together")
    if (kind == "stun") != (ufrag is not None):
        raise click.UsageError("--class stun and --ufrag UFRAG go together")
    try:
        raw = _raw(frame, capture, number)
        with pinned_maps(pin_path) as datapath:
            if raw is None and source is not None and destination is not None:
                raw = frames.datagram(source, destination, _payload(datapath, kind, ufrag))
            report = why_report.report(datapath, pin_path, raw or b"", link)
    except frames.FrameFault as error:
        raise click.BadParameter(str(error), param_hint="frame") from error
    except pcap_file.CaptureFault as error:
        raise click.BadParameter(f"{capture}: {error}", param_hint="--pcap") from error
    if not report["same_program"]:
        click.echo(
            "The installed program is another than the one that runs: this is what the installed one does.",
            err=True,
        )
    if form == "json":
        write_one(report, (), form)
    else:
        click.echo("\n".join(_lines(report)))
    if not report["reason"].startswith("forward"):
        ctx.exit(EXIT_FAILED)


def _raw(frame: str | None, capture: Path | None, number: int) -> bytes | None:
    if capture is not None:
        return frames.checked(pcap_file.packet(capture, number))
    if frame == "-":
        frame = sys.stdin.read()
    return None if frame is None else frames.from_hex(frame)


def _payload(datapath: Datapath, kind: str, ufrag: str | None) -> bytes:
    if kind == "dtls":
        return frames.dtls()
    if ufrag is None:
        return frames.rtp()
    from control import abi
    from control.hmac_keys import hmac_sha1

    key = ufrag.encode()
    if not 1 <= len(key) <= abi.UFRAG_MAX or b":" in key:
        raise click.BadParameter(f"{ufrag!r} is no ufrag of 1 to {abi.UFRAG_MAX} bytes", param_hint="--ufrag")
    raw = datapath.sessions.get(np.array([(key,)], abi.UFRAG_KEY).tobytes())
    if raw is None:
        return frames.binding_request(ufrag, lambda message: bytes(20))
    session: Any = np.frombuffer(raw, abi.SESSION)[0]
    inner, outer = session["inner"], session["outer"]
    return frames.binding_request(ufrag, lambda message: hmac_sha1(inner, outer, message))


def _lines(report: Row) -> list[str]:
    arrives, leaves = report["arrives"], report["leaves"]
    made = [f"{report['action']}: {report['reason']}", f"  {report['meaning']}"]
    if report["cure"]:
        made.append(f"  -> {report['cure']}")
    made += ["", f"it comes    {_way(arrives)}"]
    if leaves is not None:
        made.append(f"it leaves   {_way(leaves)}")
    made.append("")
    for step in report["steps"]:
        detail = f"  ({step['detail']})" if step["detail"] else ""
        made.append(f"{'yes' if step['passed'] else 'NO':5}{step['question']}{detail}")
    return made


def _way(way: Row) -> str:
    return (
        f"{way['source'] or '?'} -> {way['destination'] or '?'} by {way['link'] or way['ifindex']}, "
        f"MAC {way['source_mac']} -> {way['destination_mac']}, {way['bytes']} bytes"
    )
