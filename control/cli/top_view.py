# SPDX-License-Identifier: Apache-2.0
"""What `earshot top` shows of all there is, and what keys change of that. No terminal, no maps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from control.live_flows import ORDERS

# By key; others of them are reached by < and >.
ORDER_KEYS = {
    "b": "rate",
    "u": "up",
    "d": "down",
    "l": "loss",
    "j": "jitter",
    "t": "trip",
    "a": "age",
    "i": "idle",
    "c": "client",
    "x": "transceiver",
}
HELP = (
    ("b u d", "order by bytes, packets up, packets down a second"),
    ("l j t", "order by loss, jitter, round trips"),
    ("a i c x", "order by age, idle time, client, transceiver"),
    ("< > r", "the order before, the next one; the other way round"),
    ("/", "filter: a client, a prefix; part of a session, ufrag, transceiver"),
    ("up down", "move, also by page, and with home and end"),
    ("enter", "everything about a call; esc goes back, and takes the filter off"),
    ("space p", "pause, go on"),
    ("q", "quit"),
)


class Mode(Enum):
    LIST = "list"
    CALL = "call"
    HELP = "help"
    FILTER = "filter"  # being typed


@dataclass
class View:
    """
    Attributes:
        cursor: place of the chosen call in the order; skip: that of the first one on the screen.
        typed: what has been typed of a filter.
        call: id of the flow whose screen is shown.
    """

    order: str = "rate"
    is_reversed: bool = False
    wanted: str = ""
    is_paused: bool = False
    has_ended: bool = False
    mode: Mode = Mode.LIST
    cursor: int = 0
    skip: int = 0
    typed: str = ""
    call: str | None = None

    def press(self, key: str, page: int, matching: int, chosen: str | None) -> None:
        """A key was pressed.

        Args:
            page: lines of calls on the screen; matching: calls that there are.
            chosen: id of the flow under the cursor.
        """
        if key in ("interrupt", "end-of-input"):
            self.has_ended = True
        elif self.mode is Mode.FILTER:
            self._type(key)
        elif key == "q":
            self.has_ended = True
        elif self.mode is not Mode.LIST:
            if key in ("escape", "enter", "backspace", "?", "h"):
                self.mode, self.call = Mode.LIST, None
            elif key in (" ", "p"):
                self.is_paused = not self.is_paused
        else:
            self._press_in_list(key, page, matching, chosen)

    def fit(self, page: int, matching: int) -> None:
        """Cursor and first line stay within what there is, and the cursor on the screen."""
        self.cursor = max(0, min(self.cursor, matching - 1))
        self.skip = min(self.skip, self.cursor, max(0, matching - page))
        self.skip = max(0, self.skip, self.cursor - page + 1)

    def _press_in_list(self, key: str, page: int, matching: int, chosen: str | None) -> None:
        moves = {
            "up": -1,
            "down": 1,
            "page-up": -page,
            "page-down": page,
            "home": -matching,
            "end": matching,
        }
        if key in moves:
            self.cursor += moves[key]
            self.fit(page, matching)
        elif key in ORDER_KEYS:
            self._order_by(ORDER_KEYS[key])
        elif key in ("<", ">"):
            names = list(ORDERS)
            self._order_by(names[(names.index(self.order) + (1 if key == ">" else -1)) % len(names)])
        elif key == "r":
            self.is_reversed = not self.is_reversed
        elif key in (" ", "p"):
            self.is_paused = not self.is_paused
        elif key == "/":
            self.mode, self.typed = Mode.FILTER, self.wanted
        elif key == "escape":
            self.wanted = ""
        elif key in ("?", "h"):
            self.mode = Mode.HELP
        elif key == "enter" and chosen is not None:
            self.mode, self.call = Mode.CALL, chosen

    def _order_by(self, order: str) -> None:
        self.order, self.is_reversed, self.cursor, self.skip = order, False, 0, 0

    def _type(self, key: str) -> None:
        if key == "enter":
            self.mode, self.wanted, self.cursor, self.skip = Mode.LIST, self.typed.strip(), 0, 0
        elif key == "escape":
            self.mode = Mode.LIST
        elif key == "backspace":
            self.typed = self.typed[:-1]
        elif len(key) == 1:
            self.typed += key
