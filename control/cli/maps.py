# SPDX-License-Identifier: Apache-2.0
"""`earshot map`: what stands in the kernel's maps, entry by entry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from control.cli import fields, pins, typed
from control.cli.completion import complete_map
from control.cli.fields import Arrays, Chunk, Field, Same
from control.cli.options import Command, FailedError, form_option, pin_path_option, pinned_maps
from control.cli.output import Column, Row, cell_of, number, write_list, write_one
from control.map_types import MAP_TYPES
from control.units import in_bytes

if TYPE_CHECKING:
    from control.libbpf import Array
    from control.map_reader import MapReader

_LIST_COLUMNS = (
    Column("MAP", "map"),
    Column("TYPE", "type"),
    number("ENTRIES", "max_entries"),
    number("MEMORY", "memory_bytes", in_bytes),
    Column("WHAT IT HOLDS", "purpose"),
)


@click.group("map")
def group() -> None:
    """Maps: what the program in the kernel works with."""


@group.command("list", cls=Command)
@form_option
@pin_path_option
def list_maps(form: str, pin_path: Path) -> None:
    """List the maps that are pinned, of this version and of others.

    \b
    Examples:
      earshot map list
      earshot map list -o json | jq -r '.[].map'
    """
    write_list(_list_rows(pin_path), _LIST_COLUMNS, form, "maps")


@group.command("dump", cls=Command)
@click.argument("name", metavar="MAP", shell_complete=complete_map)
@click.option("--all", "everything", is_flag=True, help="Also entries of arrays that are all zero.")
@form_option
@pin_path_option
def dump(name: str, everything: bool, form: str, pin_path: Path) -> None:
    """Show the entries of a map, each with what it means: addresses and states as text.

    What is secret is not shown, nor is what this version has no types for. Of a queue there is the
    first entry alone, since reading another would take that off.

    \b
    Examples:
      earshot map dump hops_v1
      earshot map dump sessions_v1 -o json | jq '.[].value.expires'
    """
    with _opened(pin_path, name) as reader:
        _tell_what_is_hidden(name, reader)
        fields.write_list(_entries(reader, everything), _columns(reader), form, "entries that are in use")


@group.command("get", cls=Command)
@click.argument("name", metavar="MAP", shell_complete=complete_map)
@click.argument("key")
@form_option
@pin_path_option
def get(name: str, key: str, form: str, pin_path: Path) -> None:
    """Show one entry of a map.

    KEY is a number, and in some maps something that people know: of sessions a ufrag; of flows
    CLIENT,VIP or RELAY:PORT; of flow_index CLIENT,VIP; of sources an address; of links a name; of hop_index
    NEIGHBOUR%LINK; of exempt a prefix; of reasons a name.

    \b
    Examples:
      earshot map get sessions_v1 Xk3f
      earshot map get flows_v2 198.51.100.7:40000,203.0.113.1:3478
      earshot map get sources_v2 198.51.100.7 -o json
    """
    from control import map_keys

    with ExitStack() as stack:
        reader = stack.enter_context(_opened(pin_path, name))
        try:
            wanted = map_keys.parse(
                name,
                key,
                reader.info.max_entries,
                reader.is_numbered,
                lambda: stack.enter_context(pinned_maps(pin_path)),
            )
        except map_keys.KeyFault as error:
            raise click.BadParameter(str(error), param_hint="KEY") from error
        values = reader.get(wanted) if wanted.dtype.itemsize == reader.key.itemsize else None
        if values is None:
            raise FailedError(f"{name} has no entry {key}")
        _tell_what_is_hidden(name, reader)
        [row] = fields.rows_of([_chunk(reader, wanted.view(reader.key), values[None, :])])
    if form == "json":
        write_one({"map": name, **row}, (), form)
        return
    shown = row["values"] if reader.is_per_cpu else [row["value"]]
    click.echo(f"{name}  {cell_of(row['key'])}")
    for cpu, value in enumerate(shown):
        if reader.is_per_cpu:
            click.echo(f"CPU {cpu}")
        _write_value(value)


def _list_rows(pin_path: Path) -> Iterator[Row]:
    for row in pins.map_rows(pin_path, pins.names(pin_path)):
        known = MAP_TYPES.get(row["map"])
        yield {**row, "purpose": known.purpose if known else None}


def _opened(pin_path: Path, name: str) -> MapReader:
    from control.map_reader import MapReader

    found = [pin for pin in pins.names(pin_path) if not pin.startswith("link_")]
    if name not in found:
        raise FailedError(f"there is no map {name}; there are: {', '.join(found)}")
    return MapReader(pin_path / name)


def _tell_what_is_hidden(name: str, reader: MapReader) -> None:
    if not reader.is_known:
        click.echo(
            f"{name} is of another version: its keys are bytes here, its values are not shown", err=True
        )
    elif not reader.is_shown:
        click.echo(f"{name}: what secrets pass through is not shown", err=True)


def _entries(reader: MapReader, everything: bool) -> Iterator[Chunk]:
    for keys, values in reader.entries():
        if not len(keys):
            continue
        if reader.is_numbered and not everything:
            used = values.view(np.uint8).reshape(len(values), -1).any(axis=1)
            keys, values = keys[used], values[used]
        if len(keys):
            yield _chunk(reader, keys, values)


def _chunk(reader: MapReader, keys: Array, values: Array) -> Chunk:
    """Entries as JSON shows them. `values`: a row for each, of one, or of one for each CPU."""
    told: Field = typed.HIDDEN if reader.is_known else Same(None)
    if reader.is_shown:
        told = typed.shown(values if reader.is_per_cpu else values[:, 0])
    elif reader.is_per_cpu:
        told = Arrays(told, *values.shape)
    return {"key": typed.shown(keys), "values" if reader.is_per_cpu else "value": told}


def _columns(reader: MapReader) -> tuple[Column, ...]:
    value = Column("VALUES, BY CPU", "values") if reader.is_per_cpu else Column("VALUE", "value")
    return (Column("KEY", "key"), value)


def _write_value(value: Any) -> None:
    """A line for each field."""
    if not isinstance(value, dict):
        click.echo(f"  {cell_of(value)}")
        return
    width = max(map(len, value), default=0) + 2
    for name, one in value.items():
        click.echo(f"  {name:{width}}{cell_of(one)}")
