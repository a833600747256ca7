# SPDX-License-Identifier: Apache-2.0
"""What nobody may ever see: pwds, the key states made of them, private keys.

A daemon that says all it can (debug level, asyncio's debug mode, faulthandler) is given marked pwds,
and every way to fail with them; then all that it has said, answered, shown and counted is searched.
"""

from __future__ import annotations

import base64
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from earshot.relay.v1 import relay_pb2 as pb
from earshot.relay.v1 import relay_pb2_grpc

from control import pki
from control.cli.main import cli
from control.hmac_keys import key_states
from tests.lab.calls import wait_for
from tests.lab.netns import Lab
from tests.lab.services import relay_target, start_relay
from tests.lab.topology import IPV4, Site, two_armed
from tests.netns.command import earshot_here
from tests.netns.raw_stream import add, raw_stream, session

pytestmark = [pytest.mark.root, pytest.mark.netns]

PWD = "Marked" + secrets.token_hex(16)
BAD_PWD = f"{PWD} with blanks"
LONG_PWD = PWD * 10
READS = [
    ("stats",),
    ("stats", "--all"),
    ("session", "list"),
    ("session", "show", "kept"),
    ("flow", "list"),
    ("transceiver", "list"),
    ("vip", "list"),
    ("datapath", "status"),
]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Lab() as lab, pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONFAULTHANDLER", "1")
        environment.setenv("PYTHONASYNCIODEBUG", "1")
        made = two_armed(lab)
        pki.init(lab.dir / "pki", ["relay"], 1)
        start_relay(
            made,
            "--log-level=debug",
            "--max-sessions=10",
            f"--grpc-listen={IPV4.relay}:9000",
            *(f"--tls-{key}={lab.dir}/pki/{name}" for key, name in TLS.items()),
        )
        yield made


TLS = {"certificate": "relay.crt", "key": "relay.key", "client-ca": "ca.crt"}


def forms(secret: bytes) -> set[bytes]:
    """The ways in which bytes are likely to be written somewhere."""
    return {
        secret,
        secret.hex().encode(),
        secret.hex(" ").encode(),
        secret.hex(":").encode(),
        base64.b64encode(secret).rstrip(b"="),
        base64.urlsafe_b64encode(secret).rstrip(b"="),
        repr(secret)[2:-1].encode(),
    }


def marks(pwd: str) -> set[bytes]:
    """What would give a pwd away: itself, or any of its key states."""
    found = forms(pwd.encode()) | {pwd[: len(pwd) // 2].encode()}
    for state in key_states([pwd.encode()]):
        found |= forms(state.tobytes()) | forms(state.astype(">u4").tobytes())
        words = [int(word) for word in state[0]]
        found |= {str(word).encode() for word in words} | {f"{word:08x}".encode() for word in words}
    return found


def test_the_search_would_find_them() -> None:
    inner, _ = key_states([PWD.encode()])
    for leak in (
        f"pwd={PWD!r}",
        str(inner),
        inner.tobytes().hex(),
        repr(np.array(inner)),
        PWD.encode().hex(),
    ):
        assert any(mark in leak.encode() for mark in marks(PWD)), leak


def every_error(channel: grpc.Channel) -> Iterator[str]:
    """Answers to everything that can go wrong with a pwd in hand."""
    with raw_stream(channel) as stream:
        yield str(stream.hello("marked"))
        stream.send(
            batch=pb.Batch(
                operations=[
                    add("kept", "kept", pwd=PWD),
                    add("long", "long1", pwd=LONG_PWD),
                    add("bad", "bad11", pwd=BAD_PWD),
                    add("bad id", "bad11", pwd=PWD),
                    add("bad", "b", pwd=PWD),
                    add("bad", "twice", "twice", pwd=PWD),
                    add("other", "kept", pwd=PWD),
                    add("bad", "bad11", pwd=PWD, to=[]),
                    add("bad", "bad11", pwd=PWD, to=[("nowhere", 1)]),
                    add("bad", "bad11", pwd=PWD, to=[("192.168.77.1", 1)]),
                    add("bad", "bad11", pwd=PWD, to=[("10.20.0.99", 1)]),
                    add("bad", "bad11", pwd=PWD, ttl_seconds=2**31),
                    *(add(f"full{n}", f"full{n}", pwd=PWD) for n in range(12)),
                ]
            )
        )
        yield str(stream.take("batch_result"))
        yield str(stream.snapshot(session("kept", "kept", pwd=PWD), session("bad", "b", pwd=PWD)))
        stream.send(batch=pb.Batch(operations=[add("x", "xxxx", pwd=PWD)] * 1001))
        yield str(stream.error())
    for first in (
        {"batch": pb.Batch(operations=[add("x", "xxxx", pwd=PWD)])},
        {"snapshot": pb.Snapshot(sessions=[session("x", "xxxx", pwd=PWD)])},
    ):
        with raw_stream(channel) as stream:
            stream.send(**first)
            yield str(stream.error())
    good = pb.AttachRequest(batch=pb.Batch(operations=[add("x", "xxxx", pwd=PWD)])).SerializeToString()
    raw = channel.stream_stream("/earshot.relay.v1.RelayService/Attach")
    hello = pb.AttachRequest(hello=pb.Hello(transceiver="marked")).SerializeToString()
    for broken in (good[:-3], good + b"\xff", bytes(2 << 20) + PWD.encode()):
        with pytest.raises(grpc.RpcError) as caught:
            list(raw(iter([hello, broken]), timeout=10))
        yield str(caught.value)
    for method in ("ListSessions", "ListFlows"):
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.unary_stream(f"/earshot.relay.v1.RelayService/{method}")(PWD.encode(), timeout=10))
        yield str(caught.value)


def every_answer(channel: grpc.Channel) -> Iterator[str]:
    stub: Any = relay_pb2_grpc.RelayServiceStub(channel)  # type: ignore[no-untyped-call]
    with raw_stream(channel) as stream:
        stream.hello("marked")
        stream.batch(add("kept", "kept", pwd=PWD))
        yield from map(str, stub.ListSessions(pb.ListSessionsRequest(), timeout=10))
        yield from map(str, stub.ListFlows(pb.ListFlowsRequest(), timeout=10))
        yield str(stub.ListTransceivers(pb.ListTransceiversRequest(), timeout=10))
        yield str(stub.GetCounters(pb.GetCountersRequest(), timeout=10))


def test_pwds_and_key_states_show_nowhere(site: Site) -> None:
    said: list[str] = []
    with grpc.insecure_channel(relay_target(site)) as channel:
        said += every_error(channel)
        said += every_answer(channel)
    for command in READS:
        for form in ("table", "json"):
            done = earshot_here(site, *command, "-o", form)
            assert done.status == 0, done.err
            said += [done.out, done.err]
    fetch = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464/metrics').read().decode())"
    said.append(site.relay.run("python3", "-c", fetch))
    assert "earshot_sessions 1.0" in said[-1]
    # The last word: a crash with the tracebacks of all threads.
    (pid,) = [process.pid for process in site.lab._processes]
    os.kill(pid, signal.SIGABRT)
    log = site.lab.log("earshotd")
    wait_for(lambda: "Fatal Python error: Aborted" in log.read_text(), "the traceback")
    said.append(log.read_text())
    everything = "\n".join(said).encode()
    assert b"kept" in everything
    for pwd in (PWD, LONG_PWD, BAD_PWD):
        for mark in marks(pwd):
            assert mark not in everything
    for key in site.lab.dir.glob("pki/*.key"):
        for line in key.read_bytes().splitlines():
            if not line.startswith(b"-----"):
                assert line not in everything


@pytest.mark.parametrize("field", ["tls_certificate", "tls_key", "tls_client_ca"])
def test_a_key_in_the_wrong_place_is_not_quoted(tmp_path: Path, field: str) -> None:
    """A private key where a certificate ought to be, or a broken one, is refused without a word of it."""
    from control.errors import ConfigError
    from control.tls import Certificates, TlsFiles

    pki.init(tmp_path, ["relay"], 1)
    files = {
        "tls_certificate": tmp_path / "relay.crt",
        "tls_key": tmp_path / "relay.key",
        "tls_client_ca": tmp_path / "ca.crt",
    }
    body = (tmp_path / "ca.key").read_text().splitlines()[1]
    broken = tmp_path / "broken"
    broken.write_text(f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigError) as caught:
        Certificates(TlsFiles(**{**files, field: broken}))
    assert caught.value.field == field
    assert body not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_pki_prints_names_alone(tmp_path: Path) -> None:
    said = CliRunner().invoke(cli, ["pki", "init", str(tmp_path)]).output
    said += CliRunner().invoke(cli, ["pki", "init", str(tmp_path)]).output
    for key in tmp_path.glob("*.key"):
        assert key.read_text().splitlines()[1] not in said
