# SPDX-License-Identifier: Apache-2.0
"""The project's only foreign-function calls: libbpf, as bcc's ``libbcc`` brings it in, or by itself.

Loading happens through libbpf's object API, everything else through its thin wrappers of
bpf(2). Each function raises OSError with the kernel's errno where the call failed; maps are
given by file descriptor, keys and values as bytes or numpy arrays whose dtypes are those of
control/abi.py. bcc's own table classes are not used: on a pinned map they misreport its size.

See bpf(2) and the kernel's Documentation/bpf/libbpf.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BPF_ANY, BPF_NOEXIST, BPF_EXIST = 0, 1, 2
BPF_XDP = 37  # enum bpf_attach_type
XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE = 1 << 1, 1 << 2
XDP_ACTIONS = ("ABORTED", "DROP", "PASS", "TX", "REDIRECT")

_XDP_FLAGS_UPDATE_IF_NOEXIST = 1 << 0
_EXTACK = "Kernel error message: "  # how libbpf begins what netlink's extended acknowledgement says
_ENOENT, _ENOSPC = 2, 28
_MAP_TYPE_HASH, _MAP_TYPE_ARRAY, _MAP_TYPE_QUEUE = 1, 2, 22
_LIVE_FRAMES = 1 << 1
_STATS_RUN_TIME = 0  # enum bpf_stats_type
_BATCH = 8192


class _BatchOpts(ct.Structure):
    _fields_ = [("sz", ct.c_size_t), ("elem_flags", ct.c_uint64), ("flags", ct.c_uint64)]


class _LinkCreateOpts(ct.Structure):
    _fields_ = [("sz", ct.c_size_t), ("flags", ct.c_uint32), ("pad", ct.c_uint32)]


class _TestRunOpts(ct.Structure):
    _fields_ = [
        ("sz", ct.c_size_t),
        ("data_in", ct.c_void_p),
        ("data_out", ct.c_void_p),
        ("data_size_in", ct.c_uint32),
        ("data_size_out", ct.c_uint32),
        ("ctx_in", ct.c_void_p),
        ("ctx_out", ct.c_void_p),
        ("ctx_size_in", ct.c_uint32),
        ("ctx_size_out", ct.c_uint32),
        ("retval", ct.c_uint32),
        ("repeat", ct.c_int),
        ("duration", ct.c_uint32),
        ("flags", ct.c_uint32),
        ("cpu", ct.c_uint32),
        ("batch_size", ct.c_uint32),
    ]


class _XdpMd(ct.Structure):
    _fields_ = [
        (name, ct.c_uint32)
        for name in ("data", "data_end", "data_meta", "ingress_ifindex", "rx_queue_index", "egress_ifindex")
    ]


class _MapInfo(ct.Structure):  # the first fields of struct bpf_map_info
    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("key_size", ct.c_uint32),
        ("value_size", ct.c_uint32),
        ("max_entries", ct.c_uint32),
        ("map_flags", ct.c_uint32),
        ("name", ct.c_char * 16),
    ]


class _LinkInfo(ct.Structure):  # struct bpf_link_info of an XDP link
    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("prog_id", ct.c_uint32),
        ("pad", ct.c_uint32),
        ("ifindex", ct.c_uint32),
    ]


class _PerfEventAttr(ct.Structure):  # the first fields of struct perf_event_attr, as of its first version
    _fields_ = [
        ("type", ct.c_uint32),
        ("size", ct.c_uint32),
        ("config", ct.c_uint64),
        ("sample_period", ct.c_uint64),
        ("sample_type", ct.c_uint64),
        ("read_format", ct.c_uint64),
        ("flags", ct.c_uint64),
        ("wakeup_events", ct.c_uint32),
        ("bp_type", ct.c_uint32),
        ("config1", ct.c_uint64),
    ]


class _PerfBufferOpts(ct.Structure):  # struct perf_buffer_raw_opts
    _fields_ = [
        ("sz", ct.c_size_t),
        ("cpu_cnt", ct.c_int),
        ("cpus", ct.POINTER(ct.c_int)),
        ("map_keys", ct.POINTER(ct.c_int)),
    ]


class _ProgramInfo(ct.Structure):  # struct bpf_prog_info up to run_cnt
    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("tag", ct.c_uint8 * 8),
        ("code", ct.c_uint64 * 3),  # lengths and addresses, jited and translated
        ("load_time", ct.c_uint64),
        ("others", ct.c_uint64 * 18),  # maps, name, links of types and lines
        ("run_time_ns", ct.c_uint64),
        ("run_cnt", ct.c_uint64),
    ]


def _find_library() -> tuple[ct.CDLL, str]:
    """The library, and the version of the bcc that has brought it: empty where there is none.

    The container image has none, since LLVM, a quarter of a gigabyte, comes with it. Raises ImportError where
    there is no libbpf either.
    """
    try:
        import bcc
        from bcc import libbcc
    except ModuleNotFoundError:
        with contextlib.suppress(OSError):
            return ct.CDLL("libbpf.so.1", use_errno=True), ""
        raise
    return libbcc.lib, str(bcc.__version__)


_LIBRARY, _BCC = _find_library()
_PRINT_FN = ct.CFUNCTYPE(ct.c_int, ct.c_int, ct.c_char_p, ct.c_void_p)
_P, _I, _U32, _S, _Z = ct.c_void_p, ct.c_int, ct.c_uint32, ct.c_char_p, ct.c_size_t


def _declare(name: str, result: Any, *arguments: Any) -> Any:
    # A prototype of our own: bcc has declared some of these for itself, differently.
    return ct.CFUNCTYPE(result, *arguments, use_errno=True)((name, _LIBRARY))


_open_file = _declare("bpf_object__open_file", _P, _S, _P)
_load = _declare("bpf_object__load", _I, _P)
_close = _declare("bpf_object__close", None, _P)
_find_map = _declare("bpf_object__find_map_by_name", _P, _P, _S)
_next_map = _declare("bpf_object__next_map", _P, _P, _P)
_find_program = _declare("bpf_object__find_program_by_name", _P, _P, _S)
_next_program = _declare("bpf_object__next_program", _P, _P, _P)
_set_log_buf = _declare("bpf_program__set_log_buf", _I, _P, _P, _Z)
_program_fd = _declare("bpf_program__fd", _I, _P)
_map_create = _declare("bpf_map_create", _I, _U32, _S, _U32, _U32, _U32, _P)
_map_name = _declare("bpf_map__name", _S, _P)
_map_fd = _declare("bpf_map__fd", _I, _P)
_map_type = _declare("bpf_map__type", _I, _P)
_map_key_size = _declare("bpf_map__key_size", _U32, _P)
_map_value_size = _declare("bpf_map__value_size", _U32, _P)
_map_max_entries = _declare("bpf_map__max_entries", _U32, _P)
_map_flags = _declare("bpf_map__map_flags", _U32, _P)
_set_max_entries = _declare("bpf_map__set_max_entries", _I, _P, _U32)
_set_type = _declare("bpf_map__set_type", _I, _P, _I)
_set_flags = _declare("bpf_map__set_map_flags", _I, _P, _U32)
_set_initial_value = _declare("bpf_map__set_initial_value", _I, _P, _P, _Z)
_initial_value = _declare("bpf_map__initial_value", _P, _P, ct.POINTER(_Z))
_reuse_fd = _declare("bpf_map__reuse_fd", _I, _P, _I)
_set_print = _declare("libbpf_set_print", _P, _PRINT_FN)
_version_string = _declare("libbpf_version_string", _S)
_enable_stats = _declare("bpf_enable_stats", _I, _I)
_possible_cpus = _declare("libbpf_num_possible_cpus", _I)
_obj_pin = _declare("bpf_obj_pin", _I, _I, _S)
_obj_get = _declare("bpf_obj_get", _I, _S)
_program_by_id = _declare("bpf_prog_get_fd_by_id", _I, _U32)
_map_by_id = _declare("bpf_map_get_fd_by_id", _I, _U32)
_info_by_fd = _declare("bpf_obj_get_info_by_fd", _I, _I, _P, ct.POINTER(_U32))
_link_create = _declare("bpf_link_create", _I, _I, _I, _I, ct.POINTER(_LinkCreateOpts))
_link_update = _declare("bpf_link_update", _I, _I, _I, _P)
_xdp_attach = _declare("bpf_xdp_attach", _I, _I, _I, _U32, _P)
_xdp_detach = _declare("bpf_xdp_detach", _I, _I, _U32, _P)
_test_run = _declare("bpf_prog_test_run_opts", _I, _I, ct.POINTER(_TestRunOpts))
_lookup = _declare("bpf_map_lookup_elem", _I, _I, _P, _P)
_lookup_and_delete = _declare("bpf_map_lookup_and_delete_elem", _I, _I, _P, _P)
_update = _declare("bpf_map_update_elem", _I, _I, _P, _P, ct.c_uint64)
_delete = _declare("bpf_map_delete_elem", _I, _I, _P)
_get_next_key = _declare("bpf_map_get_next_key", _I, _I, _P, _P)
_lookup_batch = _declare(
    "bpf_map_lookup_batch", _I, _I, _P, _P, _P, _P, ct.POINTER(_U32), ct.POINTER(_BatchOpts)
)
_update_batch = _declare("bpf_map_update_batch", _I, _I, _P, _P, ct.POINTER(_U32), ct.POINTER(_BatchOpts))
_delete_batch = _declare("bpf_map_delete_batch", _I, _I, _P, ct.POINTER(_U32), ct.POINTER(_BatchOpts))

_PERF_FN = ct.CFUNCTYPE(_I, _P, _I, _P)
_perf_new = _declare(
    "perf_buffer__new_raw",
    _P,
    _I,
    _Z,
    ct.POINTER(_PerfEventAttr),
    _PERF_FN,
    _P,
    ct.POINTER(_PerfBufferOpts),
)
_perf_consume = _declare("perf_buffer__consume", _I, _P)
_perf_free = _declare("perf_buffer__free", None, _P)

_vsnprintf = ct.CDLL(None).vsnprintf
_vsnprintf.argtypes = [_P, _Z, _S, _P]
_messages: list[str] = []


@_PRINT_FN  # type: ignore[untyped-decorator]
def _keep_message(level: int, fmt: bytes, arguments: int) -> int:
    if level <= 1:  # warnings and what is known as info; 2 is debug
        buffer = ct.create_string_buffer(512)
        _vsnprintf(buffer, len(buffer), fmt, arguments)
        _messages.append(buffer.value.decode(errors="replace").strip())
        del _messages[:-20]
    return 0


_set_print(_keep_message)


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


def _pointer(array: Array) -> int:
    if not array.flags.c_contiguous:
        raise ValueError("a map call needs a contiguous array")
    return array.ctypes.data


# ---- objects -----------------------------------------------------------------------------


class MapShape(NamedTuple):
    """A map of an object, as it is, or will be, made. Sizes in bytes."""

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


class BpfObject:
    """A compiled object between open and close: set it up, load it, take its descriptors.

    The descriptors belong to the object; duplicate or pin what must outlive it.
    """

    def __init__(self, path: Path) -> None:
        _messages.clear()
        self._handle = _open_file(str(path).encode(), None)
        if not self._handle:
            number = ct.get_errno()
            raise OSError(number, f"cannot open BPF object {path}: {os.strerror(number)}")
        self._logs: list[Any] = []

    def __enter__(self) -> BpfObject:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._handle:
            _close(self._handle)
            self._handle = None

    def map_names(self) -> Iterator[str]:
        """Names of the object's maps, .rodata and the like left out."""
        entry = _next_map(self._handle, None)
        while entry:
            name: bytes = _map_name(entry)
            if b"." not in name:
                yield name.decode()
            entry = _next_map(self._handle, entry)

    def _map(self, name: str) -> int:
        entry: int | None = _find_map(self._handle, name.encode())
        if not entry:
            raise KeyError(f"the BPF object has no map {name}")
        return entry

    def map_shapes(self) -> list[MapShape]:
        """All maps of map_names(), of the sizes that are set by now."""
        shapes = []
        for name in self.map_names():
            entry = self._map(name)
            sizes = (_map_key_size(entry), _map_value_size(entry), _map_max_entries(entry))
            shapes.append(MapShape(name, _map_type(entry), *sizes, _map_flags(entry)))
        return shapes

    def set_max_entries(self, name: str, entries: int) -> None:
        _check(_set_max_entries(self._map(name), entries), f"size of map {name}")

    def make_sparse(self, name: str, entries: int) -> None:
        """Makes a hash of an array, before it is loaded: entries that are not there cost nothing.

        The program's look-ups are the same; one of an entry that is not there finds none.
        """
        _check(_set_type(self._map(name), _MAP_TYPE_HASH), f"type of map {name}")
        _check(_set_flags(self._map(name), 0), f"flags of map {name}")
        self.set_max_entries(name, entries)

    def set_rodata(self, value: bytes) -> None:
        """Replaces the start of .rodata by value."""
        entry = _next_map(self._handle, None)
        while entry and not _map_name(entry).endswith(b".rodata"):
            entry = _next_map(self._handle, entry)
        size = _Z()
        memory = _initial_value(entry, ct.byref(size)) if entry else None
        if not memory or len(value) > size.value:
            raise ValueError("the BPF object has no .rodata of that size")
        ct.memmove(memory, value, len(value))

    def reuse_map(self, name: str, fd: int) -> None:
        """Lets the object use an existing map in place of its own (the fd is duplicated)."""
        _check(_reuse_fd(self._map(name), fd), f"reuse of map {name}")

    def load(self) -> None:
        """Creates the maps and has the kernel verify the programs.

        Raises:
            OSError: with libbpf's messages and the end of the verifier's log in its text.
        """
        program = _next_program(self._handle, None)
        while program:
            buffer = ct.create_string_buffer(1 << 20)
            _set_log_buf(program, buffer, len(buffer))
            self._logs.append(buffer)
            program = _next_program(self._handle, program)
        result = _load(self._handle)
        logs = [buffer.value.decode(errors="replace").strip() for buffer in self._logs]
        self._logs.clear()
        if result < 0:
            log = "\n".join([*_messages, *(part[-2000:] for part in logs if part)])
            raise OSError(-result, f"the kernel refused the BPF object: {os.strerror(-result)}\n{log}")

    def map_fd(self, name: str) -> int:
        return _check(_map_fd(self._map(name)), f"map {name}")

    def program_fd(self, name: str) -> int:
        program = _find_program(self._handle, name.encode())
        if not program:
            raise KeyError(f"the BPF object has no program {name}")
        return _check(_program_fd(program), f"program {name}")


class _MapCreateOpts(ct.Structure):
    _fields_ = [
        ("sz", ct.c_size_t),
        ("btf", _U32 * 4),
        ("inner_map_fd", _U32),
        ("map_flags", _U32),
        ("map_extra", ct.c_uint64),
        ("numa_node", _U32),
        ("map_ifindex", _U32),
    ]


def create_map(name: str, kind: int, value_size: int, entries: int, flags: int = 0) -> int:
    """A new array, or whatever enum bpf_map_type says, that belongs to no object; its descriptor.

    Keys are numbers, but a queue has none.
    """
    options = _MapCreateOpts(sz=ct.sizeof(_MapCreateOpts), map_flags=flags)
    key_size = 0 if kind == _MAP_TYPE_QUEUE else 4
    fd = _map_create(kind, name.encode(), key_size, value_size, entries, ct.byref(options))
    return _check(fd, f"create map {name}")


def create_array(name: str, value_size: int, entries: int) -> int:
    """A new array map that belongs to no object; its descriptor."""
    return create_map(name, _MAP_TYPE_ARRAY, value_size, entries)


# ---- pins and links ----------------------------------------------------------------------


def pin(fd: int, path: Path) -> None:
    _check(_obj_pin(fd, str(path).encode()), f"pin {path}")


def get_pinned(path: Path) -> int:
    """A new descriptor of what is pinned there."""
    return _check(_obj_get(str(path).encode()), f"open pin {path}")


def create_xdp_link(program_fd: int, ifindex: int, flags: int) -> int:
    """Attaches a program to a link of the host; the descriptor returned holds it there.

    Raises:
        OSError: with the driver's own words in its text, if it has any.
    """
    opts = _LinkCreateOpts(sz=ct.sizeof(_LinkCreateOpts), flags=flags)
    result = _link_create(program_fd, ifindex, BPF_XDP, ct.byref(opts))
    if result < 0:
        words = _why_refused(program_fd, ifindex, flags)
        raise OSError(-result, f"{os.strerror(-result)}{f': {words}' if words else ''}")
    return int(result)


def _why_refused(program_fd: int, ifindex: int, flags: int) -> str:
    """What a driver says for itself: netlink carries it (extack), which attaches by another call."""
    _messages.clear()
    if _xdp_attach(ifindex, program_fd, flags | _XDP_FLAGS_UPDATE_IF_NOEXIST, None) == 0:
        _xdp_detach(ifindex, flags, None)  # it does take it now
    said = [message.partition(_EXTACK)[2] for message in _messages if _EXTACK in message]
    return said[-1] if said else ""


def update_link(link_fd: int, program_fd: int) -> None:
    """Replaces a link's program; no packet sees neither."""
    _check(_link_update(link_fd, program_fd, None), "replace the attached program")


class MapInfo(NamedTuple):
    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str


def map_info(fd: int) -> MapInfo:
    info = _MapInfo()
    size = _U32(ct.sizeof(info))
    _check(_info_by_fd(fd, ct.byref(info), ct.byref(size)), "map info")
    return MapInfo(
        info.type,
        info.id,
        info.key_size,
        info.value_size,
        info.max_entries,
        info.map_flags,
        info.name.decode(),
    )


class ProgramInfo(NamedTuple):
    """A program, as the kernel tells of it.

    Attributes:
        tag: a hash of its instructions, as bpftool shows it.
        loaded_ns: when it was loaded, in nanoseconds of CLOCK_BOOTTIME.
        runs, run_ns: how often it ran, and for how long in all, while run-time statistics were on.
    """

    id: int
    tag: str
    loaded_ns: int
    runs: int
    run_ns: int


def program_info(fd: int) -> ProgramInfo:
    info = _ProgramInfo()
    size = _U32(ct.sizeof(info))
    _check(_info_by_fd(fd, ct.byref(info), ct.byref(size)), "program info")
    return ProgramInfo(info.id, bytes(info.tag).hex(), info.load_time, info.run_cnt, info.run_time_ns)


def program_id(fd: int) -> int:
    """The kernel's number of a program."""
    return program_info(fd).id


def enable_run_time_statistics() -> int:
    """Has the kernel time every program on the host until the descriptor is closed. Needs CAP_SYS_ADMIN."""
    return _check(_enable_stats(_STATS_RUN_TIME), "run-time statistics")


class _ProgInfo(ct.Structure):  # the first fields of struct bpf_prog_info
    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("tag", ct.c_uint8 * 8),
        ("lengths", ct.c_uint32 * 2),
        ("instructions", ct.c_uint64 * 2),
        ("load_time", ct.c_uint64),
        ("created_by_uid", ct.c_uint32),
        ("nr_map_ids", ct.c_uint32),
        ("map_ids", ct.c_uint64),
    ]


def program_tag(fd: int) -> str:
    """A hash of a program's instructions: alike in two loads of the same object."""
    info = _ProgInfo()
    size = _U32(ct.sizeof(info))
    _check(_info_by_fd(fd, ct.byref(info), ct.byref(size)), "program info")
    return bytes(info.tag).hex()


def program_map_ids(fd: int) -> list[int]:
    """The kernel's numbers of the maps that a program uses, .rodata among them."""
    numbers = (_U32 * 128)()
    info = _ProgInfo(nr_map_ids=len(numbers), map_ids=ct.addressof(numbers))
    size = _U32(ct.sizeof(info))
    _check(_info_by_fd(fd, ct.byref(info), ct.byref(size)), "program info")
    return list(numbers)[: info.nr_map_ids]


def open_map(map_id: int) -> int:
    """A new descriptor of a map, by the kernel's number for it. Needs CAP_SYS_ADMIN."""
    return _check(_map_by_id(map_id), f"open map {map_id}")


class LinkInfo(NamedTuple):
    id: int
    program_id: int
    ifindex: int  # 0: the device is gone


def link_info(fd: int) -> LinkInfo:
    info = _LinkInfo()
    size = _U32(ct.sizeof(info))
    _check(_info_by_fd(fd, ct.byref(info), ct.byref(size)), "link info")
    return LinkInfo(info.id, info.prog_id, info.ifindex)


def open_program(program_id: int) -> int:
    """A new descriptor of a program, by the kernel's number for it. Needs CAP_SYS_ADMIN."""
    return _check(_program_by_id(program_id), f"open program {program_id}")


# ---- perf rings --------------------------------------------------------------------------


class PerfRings:
    """A ring of the kernel's for each CPU, entered in a map of type PERF_EVENT_ARRAY.

    They leave the map when they are closed, and when this process ends, however it does. See
    perf_event_open(2). Needs CAP_PERFMON.
    """

    _SOFTWARE, _BPF_OUTPUT = 1, 10  # type and config
    _SAMPLE_RAW = 1 << 10
    _RECORD_SAMPLE = 9
    _NEVER = (1 << 32) - 1  # who reads does not wait: to be woken would cost each packet more than the copy
    _CONTINUE = -2  # enum bpf_perf_event_ret

    def __init__(self, map_fd: int, keys: dict[int, int], pages: int) -> None:
        """
        Args:
            map_fd: must stay open until close().
            keys: where in the map each CPU's ring is entered.
            pages: of each ring, a power of two.
        """
        self._records: list[bytes] = []
        self._callback = _PERF_FN(self._take)  # kept: the C side holds no reference to it
        attr = _PerfEventAttr(
            type=self._SOFTWARE,
            size=ct.sizeof(_PerfEventAttr),
            config=self._BPF_OUTPUT,
            sample_period=1,
            sample_type=self._SAMPLE_RAW,
            wakeup_events=self._NEVER,
        )
        numbers = ct.c_int * len(keys)
        opts = _PerfBufferOpts(ct.sizeof(_PerfBufferOpts), len(keys), numbers(*keys), numbers(*keys.values()))
        self._handle = _perf_new(map_fd, pages, ct.byref(attr), self._callback, None, ct.byref(opts))
        if not self._handle:
            number = ct.get_errno()
            raise OSError(number, f"perf rings: {os.strerror(number)}")

    def _take(self, context: int | None, cpu: int, record: int) -> int:
        kind, size = _U32.from_address(record).value, ct.c_uint16.from_address(record + 6).value
        if kind == self._RECORD_SAMPLE:
            self._records.append(ct.string_at(record + 12, size - 12))
        return self._CONTINUE

    def read(self) -> list[bytes]:
        """The records that wait, CPU by CPU, with what the kernel has padded them with. Does not wait."""
        _check(_perf_consume(self._handle), "perf rings")
        records, self._records = self._records, []
        return records

    def close(self) -> None:
        if self._handle:
            _perf_free(self._handle)
            self._handle = None


# ---- test runs ---------------------------------------------------------------------------


@dataclass(frozen=True)
class ProgramRun:
    action: str  # XDP action without its prefix
    data: bytes  # the packet afterwards
    nanoseconds: int  # per run, averaged over the repeats by the kernel


def run_program(program_fd: int, data: bytes, *, ifindex: int = 0, repeat: int = 1) -> ProgramRun:
    """Runs an XDP program on a packet (BPF_PROG_TEST_RUN).

    The packet is not reset between repeats. ifindex: the link it is said to come from.
    """
    out = ct.create_string_buffer(max(4096, len(data) + 256))
    context = _XdpMd(data_end=len(data), ingress_ifindex=ifindex)
    opts = _TestRunOpts(
        sz=ct.sizeof(_TestRunOpts),
        data_in=ct.cast(ct.c_char_p(data), _P),
        data_out=ct.cast(out, _P),
        data_size_in=len(data),
        data_size_out=len(out),
        ctx_in=ct.cast(ct.byref(context), _P) if ifindex else None,
        ctx_size_in=ct.sizeof(context) if ifindex else 0,
        repeat=repeat,
    )
    _check(_test_run(program_fd, ct.byref(opts)), "test run")
    return ProgramRun(XDP_ACTIONS[opts.retval], out.raw[: opts.data_size_out], opts.duration)


def versions() -> tuple[str, str]:
    """libbpf's, as v1.1, and bcc's, which is empty where libbpf is used by itself."""
    return _version_string().decode(), _BCC


def run_live_frames(program_fd: int, data: bytes, frames: int, *, batch: int = 64) -> None:
    """Runs an XDP program on frames that really go where it sends them (BPF_F_TEST_XDP_LIVE_FRAMES).

    The frames start as data, and come back as their receivers left them. In the calling
    thread's network namespace.
    """
    context = _XdpMd(data_end=len(data))
    opts = _TestRunOpts(
        sz=ct.sizeof(_TestRunOpts),
        data_in=ct.cast(ct.c_char_p(data), _P),
        data_size_in=len(data),
        ctx_in=ct.cast(ct.byref(context), _P),
        ctx_size_in=ct.sizeof(context),
        repeat=frames,
        flags=_LIVE_FRAMES,
        batch_size=batch,
    )
    _check(_test_run(program_fd, ct.byref(opts)), "live-frame run")


def possible_cpus() -> int:
    """CPUs that the kernel reserves per-CPU values for."""
    return _check(_possible_cpus(), "number of CPUs")


# ---- single entries ----------------------------------------------------------------------


def lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    value = ct.create_string_buffer(value_size)
    result = _lookup(fd, key, value)
    if result == -_ENOENT:
        return None
    _check(result, "map look-up")
    return value.raw


def update(fd: int, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
    _check(_update(fd, key, value, flags), "map update")


def delete(fd: int, key: bytes) -> bool:
    """Whether there was such an entry."""
    result = _delete(fd, key)
    if result == -_ENOENT:
        return False
    _check(result, "map delete")
    return True


def iterate_keys(fd: int, key_size: int) -> Iterator[bytes]:
    """The keys of a map, while nobody else writes to it."""
    key: bytes | None = None
    following = ct.create_string_buffer(key_size)
    while True:
        result = _get_next_key(fd, key, following)
        if result == -_ENOENT:
            return
        _check(result, "next key")
        key = following.raw
        yield key


def queue_push(fd: int, value: int) -> None:
    """Appends a u32 to a queue map; OSError(E2BIG) when it is full."""
    _check(_update(fd, None, ct.byref(_U32(value)), BPF_ANY), "queue push")


def queue_peek(fd: int) -> int | None:
    """The u32 that queue_pop would take off; None when the queue is empty."""
    value = _U32()
    result = _lookup(fd, None, ct.byref(value))
    if result == -_ENOENT:
        return None
    _check(result, "queue peek")
    return value.value


def queue_pop(fd: int) -> int | None:
    """Takes a u32 off a queue map; None when it is empty."""
    value = _U32()
    result = _lookup_and_delete(fd, None, ct.byref(value))
    if result == -_ENOENT:
        return None
    _check(result, "queue pop")
    return value.value


# ---- batches -----------------------------------------------------------------------------


def update_batch(fd: int, keys: Array, values: Array) -> int:
    """Writes entries in order; returns how many were written before the map was full."""
    count = _U32(len(keys))
    opts = _BatchOpts(sz=ct.sizeof(_BatchOpts))
    result = _update_batch(fd, _pointer(keys), _pointer(values), ct.byref(count), ct.byref(opts))
    if result < 0 and -result not in (7, 12):  # E2BIG: full; ENOMEM
        _check(result, "map batch update")
    return count.value


def delete_batch(fd: int, keys: Array) -> int:
    """Deletes entries; absent ones are passed over. Returns how many were there."""
    deleted = start = 0
    while start < len(keys):
        count = _U32(len(keys) - start)
        opts = _BatchOpts(sz=ct.sizeof(_BatchOpts))
        result = _delete_batch(fd, _pointer(keys[start:]), ct.byref(count), ct.byref(opts))
        deleted += count.value
        if result == 0:
            break
        if result != -_ENOENT:
            _check(result, "map batch delete")
        start += count.value + 1  # the kernel stopped at one that is not there
    return deleted


def read_hash(fd: int, key_type: npt.DTypeLike, value_type: npt.DTypeLike) -> tuple[Array, Array]:
    """All entries of a hash map, in no order.

    Entries that come or go meanwhile may or may not be among them.
    """
    batches = list(iterate_batches(fd, key_type, value_type))
    # The dtypes by name: numpy would make the host's byte order of big-endian fields.
    return (
        np.concatenate([keys for keys, _ in batches], dtype=np.dtype(key_type)),
        np.concatenate([values for _, values in batches], dtype=np.dtype(value_type)),
    )


def iterate_batches(
    fd: int, key_type: npt.DTypeLike, value_type: npt.DTypeLike
) -> Iterator[tuple[Array, Array]]:
    """Entries of a hash map or of an array, some thousands at a time; at least one batch, which may be empty.

    `value_type`: of an array for each CPU, the values of all possible CPUs, each a multiple of 8 bytes.
    """
    batch = min(_BATCH, max(64, map_info(fd).max_entries))
    token_in, token_out = None, _U32()
    opts = _BatchOpts(sz=ct.sizeof(_BatchOpts))
    while True:
        keys, values = np.empty(batch, key_type), np.empty(batch, value_type)
        count = _U32(batch)
        result = _lookup_batch(
            fd,
            ct.byref(token_in) if token_in else None,
            ct.byref(token_out),
            _pointer(keys),
            _pointer(values),
            ct.byref(count),
            ct.byref(opts),
        )
        if result == -_ENOSPC:  # a bucket holds more than the batch
            batch *= 2
            continue
        if result not in (0, -_ENOENT):
            _check(result, "map batch look-up")
        yield keys[: count.value], values[: count.value]
        if result == -_ENOENT:
            return
        token_in = _U32(token_out.value)
