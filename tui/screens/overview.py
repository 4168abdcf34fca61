"""Screen 1: ranks by stage, engine, events of one deployment."""

from __future__ import annotations

from collections.abc import Sequence

from textual import on
from textual.app import ComposeResult
from textual.widgets import Input

from tui import keys
from tui.keys import Key
from tui.screens.view import View
from tui.view.frame import Frame
from tui.view.options import chosen
from tui.view.overview import overview, shown_as_grid
from tui.view.ranks import FILTER_HELP, SORTS


class OverviewScreen(View):
    KEYS = keys.OVERVIEW
    CSS = """
    #filter { display: none; height: 1; border: none; padding: 0 1; background: $panel; }
    #filter.-open { display: block; }
    """

    def middle(self) -> ComposeResult:
        yield from super().middle()
        yield Input(placeholder=FILTER_HELP, id="filter", select_on_focus=False)

    def frame(self, columns: int, rows: int) -> Frame:
        snapshot, feed = self.session.look()
        return overview(snapshot, feed, self.session.options, self.usable_keys(), columns, rows - self._typing)

    def usable_keys(self) -> Sequence[Key]:
        return keys.FILTERING if self._typing else super().usable_keys()

    @property
    def _typing(self) -> bool:
        return self._input.has_class("-open")

    @property
    def _input(self) -> Input:
        return self.query_one("#filter", Input)

    def action_next_form(self) -> None:
        """To the other form than the one on the screen, whichever chose it."""
        self.set_options(form="table" if self._in_grid() else "grid")

    def _in_grid(self) -> bool:
        snapshot, _ = self.session.look()
        deployment = chosen(snapshot, self.session.options)
        room = self.size.height - self._parts["head"].size.height - self._parts["foot"].size.height
        return deployment is not None and shown_as_grid(deployment, self.session.options, self.size.width - 1, room)

    def action_next_sort(self) -> None:
        now = SORTS.index(self.session.options.sort)
        self.set_options(sort=SORTS[(now + 1) % len(SORTS)], form="table")

    def action_filter(self) -> None:
        self._input.add_class("-open")
        self._input.focus()
        self.set_options(form="table")

    def action_clear_filter(self) -> None:
        self._input.value = ""
        self.action_keep_filter()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        self.set_options(filter=event.value.strip())

    @on(Input.Submitted, "#filter")
    def action_keep_filter(self) -> None:
        self._input.remove_class("-open")
        self.set_focus(None)
        self.redraw()
