# SPDX-License-Identifier: Apache-2.0
"""Who asks for traces, who does not, and who cannot have them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from telemetry.tracing import NO_SPAN, TracingError, check, metadata_of, opened, step, traceparent_in

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}
_ABSENT = "import sys; sys.modules['opentelemetry'] = None; "
_RUN = {
    "earshotd": "from control.daemon import main; main(['--interface=lo', '--vip=192.0.2.1:3478', "
    "'--relay-address=192.0.2.2'])",
    "earshot-transceiver": "from transceiver.main import main; main(['--media-address=127.0.0.1'])",
}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {**ENDPOINT, "OTEL_SDK_DISABLED": "True"},
        {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_SERVICE_NAME": "earshotd"},
    ],
    ids=str,
)
def test_who_does_not_ask_gets_none(environment: dict[str, str]) -> None:
    with opened(environment, "s", "1", "i") as tracing:
        assert not tracing.is_on
        span = tracing.start("a")
        with span, step([span], "b"):
            assert span.child("c").traceparent == ""
        assert metadata_of(span) == ()
        assert span is NO_SPAN


@pytest.mark.parametrize(
    "environment",
    [
        ENDPOINT,
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4317"},
        {"OTEL_TRACES_EXPORTER": "otlp"},
        {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_SDK_DISABLED": "false"},
    ],
    ids=str,
)
def test_who_asks_can_have_them(environment: dict[str, str]) -> None:
    check(environment)


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
    ],
    ids=str,
)
def test_what_there_is_not_is_refused_by_its_name(environment: dict[str, str], variable: str) -> None:
    with pytest.raises(TracingError) as caught:
        check(environment)
    assert caught.value.variable == variable


def test_metadata_is_found_among_others() -> None:
    assert traceparent_in((("a-bin", b"\xff"), ("traceparent", "00-x"))) == "00-x"
    assert traceparent_in(None) == traceparent_in(()) == ""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("program", _RUN)
def test_asked_for_and_not_installed(program: str) -> None:
    done = run(_ABSENT + _RUN[program], **ENDPOINT)
    assert done.returncode == 2, done.stderr
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in done.stderr
    assert "pip install 'earshot[otel]'" in done.stderr


def test_off_nothing_is_imported() -> None:
    code = (
        "import sys, control.daemon, control.server, transceiver.main, transceiver.serve; "
        "from telemetry.tracing import opened\n"
        "with opened({}, 's', '1', 'i'): pass\n"
        "print(sorted(name for name in sys.modules if name.startswith('opentelemetry')))"
    )
    assert run(code).stdout == "[]\n"
