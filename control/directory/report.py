# SPDX-License-Identifier: Apache-2.0
"""The fleet as this relay has heard of it, for operators (admin.proto)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version

from earshot.directory.v1 import directory_pb2
from earshot.relay.v1 import admin_pb2 as pb

from control.directory.directory import Directory
from control.directory.members import Member, Members
from control.sessions import Registry


def of(directory: Directory, registry: Registry) -> pb.GetFleetResponse:
    """All of it; relays and transceivers by their names."""
    members = sorted(directory.members.by_instance.values(), key=lambda one: one.said.relay)
    transceivers = list(_transceivers(directory))
    transceivers.sort(key=_name)
    return pb.GetFleetResponse(
        directory=_directory(directory),
        relays=[_this(directory, registry), *(_relay(directory.members, one) for one in members)],
        transceivers=transceivers,
    )


def alone(
    name: str, region: str, is_draining: bool, keys: Iterable[int], registry: Registry
) -> pb.GetFleetResponse:
    """Without a directory: this relay, and who is attached to it. `keys`: the numbers of its fleet keys."""
    numbers = list(keys)
    this = pb.FleetRelay(
        relay=name,
        is_this=True,
        sessions=registry.session_count(),
        transceivers=sum(1 for _ in registry.owners()),
        version=version("earshot"),
        key=numbers[0] if numbers else 0,
        keys=numbers,
        draining=is_draining,
        region=region,
    )
    transceivers = [
        pb.FleetTransceiver(
            transceiver=owner.name,
            relay=name,
            attached=owner.attached,
            sessions=len(owner.sessions),
            region=owner.region,
        )
        for owner in registry.owners()
    ]
    transceivers.sort(key=_name)
    return pb.GetFleetResponse(relays=[this], transceivers=transceivers)


def _name(transceiver: pb.FleetTransceiver) -> str:
    return transceiver.transceiver


def _directory(directory: Directory) -> pb.Directory:
    link = directory.link
    return pb.Directory(
        url=str(link.target),
        up=link.is_up,
        since_seconds=int(time.monotonic() - link.since),
        lag_microseconds=int(1e6 * directory.members.delay(time.monotonic())),
        queued=directory.homes.queued,
        refused={why.value: count for why, count in directory.refusals.counts.items()},
        name_disputed=directory.presence.is_disputed,
    )


def _this(directory: Directory, registry: Registry) -> pb.FleetRelay:
    beat = directory.beat()
    made = _of_beat(beat, directory.sealer.instance, len(directory.homes.by_name))
    made.is_this = True
    return made


def _relay(members: Members, member: Member) -> pb.FleetRelay:
    held = sum(one.held for one in member.said.held)
    made = _of_beat(member.said, member.instance, held)
    made.heard_seconds = int(members.now - member.heard)
    made.silent = members.is_silent(member.instance)
    return made


def _of_beat(beat: directory_pb2.Beat, instance: bytes, transceivers: int) -> pb.FleetRelay:
    return pb.FleetRelay(
        relay=beat.relay,
        daemon=instance.hex(),
        sessions=beat.sessions,
        transceivers=transceivers,
        pending=beat.pending,
        version=beat.version,
        key=beat.key,
        keys=beat.keys,
        draining=beat.draining,
        joining=beat.joining,
        region=beat.region,
    )


def _transceivers(directory: Directory) -> Iterator[pb.FleetTransceiver]:
    for home in directory.homes.by_name.values():
        yield pb.FleetTransceiver(
            transceiver=home.name,
            relay=directory.presence.name,
            attached=home.owner.attached,
            sessions=len(home.owner.sessions),
            epoch=home.epoch,
            region=home.owner.region,
        )
    members = directory.members
    for mirror in directory.mirrors.by_name.values():
        if mirror.owner is None:
            continue
        is_silent = mirror.silent_since is not None
        yield pb.FleetTransceiver(
            transceiver=mirror.name,
            relay="" if is_silent else directory.name_of(mirror.speaker),
            attached=mirror.owner.attached and not is_silent,
            sessions=len(mirror.owner.sessions),
            epoch=mirror.epoch,
            region=mirror.owner.region,
            silent_seconds=int(members.now - mirror.silent_since) if mirror.silent_since is not None else 0,
        )
