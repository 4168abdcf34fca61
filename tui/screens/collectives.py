"""Screen 4: the collectives of a deployment, by axis, op and size class."""

from __future__ import annotations

from tui import keys
from tui.screens.filtering import FilteredView
from tui.session import Session
from tui.view.collectives import FILTER_HELP, SORTS, collectives
from tui.view.frame import Frame
from tui.view.manual import Glossary

_GLOSSARY: Glossary = (
    ("up to", "size class: messages of at most this and more than half of it, counted as nccl-tests counts"),
    ("ms/s", "milliseconds of each second that a rank spends in it, wait and transfer"),
    ("p50, p99", "of a call's duration, wait and transfer, over the window; exact to 9%"),
    ("algbw, busbw", "GB/s of the transfer alone by nccl-tests' formulas; busbw compares with the link's rate, one direction"),
    ("of link", "busbw in percent of the device's link by the planner's catalogue; -- where the device is not in it"),
    ("wait", "from a rank's arrival to the last one's, as a share of the calls' time; ! from 50% on"),
    ("late", "the rank for which the others wait, and how many microseconds a call beyond what it waits itself"),
    ("filter", FILTER_HELP),
)


class CollectivesScreen(FilteredView):
    KEYS = keys.COLLECTIVES
    GLOSSARY = _GLOSSARY
    FILTER_HELP = FILTER_HELP

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._sort = SORTS[0]
        self._filter = ""

    def frame(self, columns: int, rows: int) -> Frame:
        snapshot, feed = self.session.look()
        room = rows - self.typing
        return collectives(snapshot, feed, self.session.options, self._filter, self._sort, self.usable_keys(), columns, room)

    def set_filter(self, text: str) -> None:
        self._filter = text

    def action_next_sort(self) -> None:
        self._sort = SORTS[(SORTS.index(self._sort) + 1) % len(SORTS)]
        self.redraw()
