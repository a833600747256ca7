# SPDX-License-Identifier: Apache-2.0
"""What a shell offers for arguments: read from the maps each time that Tab is pressed, or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from control.cli.options import DEFAULT_PIN_PATH
from control.errors import DatapathError
from control.settings import environment_name

_MOST = 200  # offered at once; nobody reads more


def _pin_path(ctx: click.Context) -> Path:
    """As on the line so far: click has not looked at the environment for it yet."""
    given = ctx.params.get("pin_path") or os.environ.get(environment_name("pin_path")) or DEFAULT_PIN_PATH
    return Path(str(given))


def _offered(found: Callable[[], list[CompletionItem]]) -> list[CompletionItem]:
    """Nothing where nothing can be read: a shell has no place for errors."""
    try:
        return found()
    except (DatapathError, OSError, ImportError):
        return []


def complete_map(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of pinned maps."""
    from control.cli import pins
    from control.map_types import MAP_TYPES

    def found() -> list[CompletionItem]:
        return [
            CompletionItem(name, help=MAP_TYPES[name].purpose if name in MAP_TYPES else None)
            for name in pins.names(_pin_path(ctx))
            if name.startswith(incomplete) and not name.startswith("link_")
        ]

    return _offered(found)


def complete_flow(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of live flows, the newest first, with their clients."""
    from control.cli import flow_rows
    from control.cli.options import pinned_maps
    from control.flows import flow_id

    def found() -> list[CompletionItem]:
        items: list[CompletionItem] = []
        with pinned_maps(_pin_path(ctx)) as datapath:
            flows = datapath.flows
            numbers = flow_rows.shown(flows)[::-1]
            for number in numbers.tolist():
                text = str(flow_id(number, int(flows["state"][number])))
                if text.startswith(incomplete):
                    items.append(CompletionItem(text, help=flow_rows.client_of(flows[number])))
                if len(items) == _MOST:
                    break
        return items

    return _offered(found)


def complete_session(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ufrags of sessions."""
    from control.cli.options import pinned_maps

    def found() -> list[CompletionItem]:
        with pinned_maps(_pin_path(ctx)) as datapath:
            keys, values = datapath.read_sessions()
            ufrags = (ufrag.decode("ascii", "replace") for ufrag in keys["ufrag"].tolist())
            pairs = zip(ufrags, values["id"].tolist(), strict=True)
            return [
                CompletionItem(ufrag, help=session_id.decode("ascii", "replace"))
                for ufrag, session_id in islice(
                    (pair for pair in pairs if pair[0].startswith(incomplete)), _MOST
                )
            ]

    return _offered(found)


def complete_transceiver(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of transceivers."""
    from control.cli.options import pinned_maps
    from control.records import owners_of

    def found() -> list[CompletionItem]:
        with pinned_maps(_pin_path(ctx)) as datapath:
            names = [name for _, name in owners_of(datapath.read_owners())]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]

    return _offered(found)
