# SPDX-License-Identifier: Apache-2.0
"""What all candidates have in common: what they are set up for, and what is measured of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field

from bench.path.plan import Forms
from bench.path.site import Site
from bench.path.traffic import Sink, Source
from bench.tables import PLANS
from control.addresses import IPAddress
from tests.lab.netns import Lab


@dataclass(frozen=True)
class Case:
    """What a candidate is set up for.

    wrong: it is broken on purpose, and leads to the neighbours of the right transceivers.
    pass_on: what came as it should have goes on to the host, where a test may look at it.
    """

    family: int
    flows: int
    wrong: bool = False
    pass_on: bool = False

    @property
    def backend(self) -> IPAddress:
        """Of flow 0's transceiver, as the candidate is told."""
        return PLANS[self.family].backend + self.wrong


@dataclass(frozen=True)
class Ready:
    """A candidate that forwards.

    forms: of its packets, by the bytes of the IP packet.
    pids: processes whose time is its.
    ports: relay ports by flow, where they were the candidate's choice.
    """

    site: Site
    case: Case
    forms: Callable[[int], Forms]
    up_sink: Sink
    down_sink: Sink
    pids: tuple[int, ...] = ()
    ports: list[int] = field(default_factory=list)

    @contextmanager
    def sources(self, size: int) -> Iterator[tuple[Source, Source]]:
        """Generators of both directions. size: bytes of an IP packet."""
        forms, flows, site = self.forms(size), self.case.flows, self.site
        a, b = site.clients, site.transceivers
        with (
            closing(Source(a, site.out(a), forms.up, site.macs(a), size, flows)) as up,
            closing(Source(b, site.out(b), forms.down, site.macs(b), size, flows, self.ports)) as down,
        ):
            yield up, down


@contextmanager
def ends(site: Site, forms: Callable[[int], Forms], case: Case) -> Iterator[tuple[Sink, Sink]]:
    """The sinks of a site: what goes up, and what goes down."""
    due, flows, pass_on = forms(0), case.flows, case.pass_on
    a, b = site.clients, site.transceivers
    with (
        closing(Sink(b, site.out(b), due.up, flows, echo=True, pass_on=pass_on)) as up,
        closing(Sink(a, site.out(a), due.down, flows, pass_on=pass_on)) as down,
    ):
        yield up, down


# Sets a candidate up in a lab of its own, and leaves it running until the block ends.
Candidate = Callable[[Lab, Case], AbstractContextManager[Ready]]
