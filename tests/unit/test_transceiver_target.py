# SPDX-License-Identifier: Apache-2.0
"""How a transceiver reaches its relay, and how each proves itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from earshot.relay.v1 import relay_pb2_grpc

from control import pki
from tests.unit.transceiver_world import Relay, eventually, running_relay
from transceiver.errors import RelayAwayError
from transceiver.main import main
from transceiver.relay_client import RelayClient
from transceiver.relay_target import RelayTarget, TargetError

FILES = (Path("/ca"), Path("/crt"), Path("/key"))


@pytest.mark.parametrize("target", ["unix:/run/x.sock", "unix:x"])
def test_the_socket_needs_nothing(target: str) -> None:
    assert str(RelayTarget(target)) == target


@pytest.mark.parametrize("target", ["127.0.0.1:9000", "[::1]:9000", "127.9.9.9:1"])
def test_without_tls_on_loopback_alone(target: str) -> None:
    RelayTarget(target, insecure=True)


@pytest.mark.parametrize(
    ("target", "more", "flag"),
    [
        ("relay", {}, "--relay"),
        ("relay:0", {}, "--relay"),
        ("dns:relay:9000", {}, "--relay"),
        ("relay:9000", {}, "--relay-ca"),
        ("relay:9000", {"ca": FILES[0]}, "--relay-certificate"),
        ("127.0.0.1:9000", {"ca": FILES[0], "certificate": FILES[1]}, "--relay-key"),
        ("relay:9000", {"insecure": True}, "--relay-insecure"),
        ("localhost:9000", {"insecure": True}, "--relay-insecure"),
        ("10.0.0.1:9000", {"insecure": True}, "--relay-insecure"),
        ("127.0.0.1:9000", {"insecure": True, "ca": FILES[0]}, "--relay-ca"),
        ("127.0.0.1:9000", {"insecure": True, "server_name": "x"}, "--relay-server-name"),
        ("unix:/x", {"ca": FILES[0]}, "--relay-ca"),
        ("unix:/x", {"insecure": True}, "--relay-insecure"),
    ],
)
def test_flags_that_do_not_fit(target: str, more: dict[str, object], flag: str) -> None:
    with pytest.raises(TargetError) as caught:
        RelayTarget(target, **more)  # type: ignore[arg-type]
    assert caught.value.flag == flag


def test_the_command_names_the_flag() -> None:
    result = CliRunner().invoke(main, ["--media-address", "10.0.0.1", "--relay", "relay:9000"])
    assert result.exit_code == 2
    assert "--relay-ca" in result.stderr


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    async with running_relay() as made:
        yield made


async def serve(relay: Relay, folder: Path, port: int = 0) -> tuple[grpc.aio.Server, int]:
    """A relay behind mutual TLS, with the certificates that are in the folder now."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    relay_pb2_grpc.add_RelayServiceServicer_to_server(relay, server)
    pairs = [((folder / "relay.key").read_bytes(), (folder / "relay.crt").read_bytes())]
    roots = (folder / "ca.crt").read_bytes()
    credentials = grpc.ssl_server_credentials(pairs, roots, require_client_auth=True)
    port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    return server, port


def make_pki(folder: Path) -> None:
    pki.init(folder, ["relay-1.example"], 1)
    pki.issue(folder, "voice", ["voice-1.example"], 1)


async def test_certificates_are_read_again_at_each_attempt(relay: Relay, tmp_path: Path) -> None:
    folder, new = tmp_path / "pki", tmp_path / "new"
    make_pki(folder)
    make_pki(new)
    server, port = await serve(relay, folder)
    files = (folder / "ca.crt", folder / "voice.crt", folder / "voice.key")
    client = RelayClient(
        RelayTarget(f"127.0.0.1:{port}", *files, server_name="relay-1.example"),
        "t1",
        "test/1",
        snapshot=list,
        on_flow=lambda _: None,
    )
    running = asyncio.create_task(client.run())
    await asyncio.wait_for(client.wait_attached(), 10)
    await server.stop(None)
    await eventually(lambda: not client.attached)
    server, _ = await serve(relay, new, port)
    for path in files:
        path.unlink()  # a renewal that is under way
    await asyncio.sleep(0.3)
    assert not client.attached
    for path in files:
        path.write_bytes((new / path.name).read_bytes())
    await asyncio.wait_for(client.wait_attached(), 10)
    running.cancel()
    await asyncio.wait([running], timeout=5)
    await server.stop(None)


async def test_a_relay_of_another_name_or_ca_is_not_spoken_to(relay: Relay, tmp_path: Path) -> None:
    folder, other = tmp_path / "pki", tmp_path / "other"
    make_pki(folder)
    make_pki(other)
    server, port = await serve(relay, folder)
    before = len(relay.hellos)
    own = (folder / "voice.crt", folder / "voice.key")
    for target in (
        RelayTarget(f"127.0.0.1:{port}", folder / "ca.crt", *own),
        RelayTarget(f"127.0.0.1:{port}", folder / "ca.crt", *own, server_name="relay-2.example"),
        RelayTarget(f"127.0.0.1:{port}", other / "ca.crt", *own, server_name="relay-1.example"),
    ):
        client = RelayClient(target, "t1", "test/1", snapshot=list, on_flow=lambda _: None)
        with pytest.raises(grpc.RpcError):
            await client._attach()
    assert len(relay.hellos) == before
    await server.stop(None)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    target = RelayTarget("127.0.0.1:1", tmp_path / "ca", tmp_path / "crt", tmp_path / "key")
    with pytest.raises(RelayAwayError, match="cannot read"):
        target.channel()
