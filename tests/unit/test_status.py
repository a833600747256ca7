# SPDX-License-Identifier: Apache-2.0
"""What a defect of ours says: a traceback in the log, nothing of what was in hand, nothing to the caller."""

from __future__ import annotations

import io
import logging
from collections.abc import AsyncIterator

import grpc
import pytest
from earshot.relay.v1 import relay_pb2 as pb

from control.logs import KeyValueFormatter
from control.requests import Credential, check_session
from control.status import StatusInterceptor

PWD = "MarkedMarkedMarkedMarked"


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    """To a service that fails with a session in hand."""

    async def fail(request: bytes, context: object) -> bytes:
        message = pb.Session.FromString(request)
        credential = Credential("ufrg", message.credentials[0].pwd.encode())
        held = {"session": message, "credential": credential}
        check_session(message, None)  # type: ignore[arg-type]  # the defect
        return bytes(len(held))

    handler = grpc.unary_unary_rpc_method_handler(fail, bytes, bytes)
    server = grpc.aio.server(interceptors=[StatusInterceptor("test")])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Fail": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as made:
        yield made
    await server.stop(None)


async def test_a_defect_quotes_nothing(channel: grpc.aio.Channel) -> None:
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(KeyValueFormatter())
    logging.getLogger("control.status").addHandler(handler)
    session = pb.Session(
        session_id="s",
        credentials=[pb.Credential(ufrag="ufrg", pwd=PWD)],
        endpoints=[pb.Endpoint(address="10.0.0.9", port=1)],
    )
    try:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test/Fail")(session.SerializeToString(), timeout=10)
    finally:
        logging.getLogger("control.status").removeHandler(handler)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "Traceback" in log.getvalue()
    assert "check_session" in log.getvalue()
    assert PWD not in log.getvalue()


def test_a_credential_does_not_show_its_pwd() -> None:
    assert PWD not in repr(Credential("ufrg", PWD.encode()))
