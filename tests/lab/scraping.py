# SPDX-License-Identifier: Apache-2.0
"""What a Prometheus server would get of a program in a host."""

from __future__ import annotations

import socket
from http.client import HTTPConnection

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.lab.host import Host

Values = dict[tuple[str, ...], float]


def families(host: Host, address: str, port: int) -> list[Metric]:
    """All metrics that are served there, asked for from within the host."""
    return list(text_string_to_metric_families(page(host, address, port)))


def scrape(host: Host, address: str, port: int) -> Values:
    """Their values, by name and label values, these in the order of the labels' names."""
    return values_of(families(host, address, port))


def values_of(found: list[Metric]) -> Values:
    return {
        (sample.name, *sample.labels.values()): sample.value for family in found for sample in family.samples
    }


def page(host: Host, address: str, port: int) -> str:
    """The text itself.

    Raises:
        ConnectionError: it is not served.
    """
    status, text = get(host, address, port, "/metrics")
    if status != 200:
        raise ConnectionError(f"status {status}")
    return text


def get(host: Host, address: str, port: int, path: str) -> tuple[int, str]:
    """Status and text of what is served there.

    Raises:
        ConnectionError: nothing is.
    """
    connection = HTTPConnection(address, port, timeout=10)
    connection.sock = host.socket(socket.AF_INET, socket.SOCK_STREAM)
    with connection.sock:
        connection.sock.connect((address, port))
        connection.request("GET", path)
        with connection.getresponse() as response:
            return response.status, response.read().decode()
