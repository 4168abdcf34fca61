"""Screen 1: ranks by stage, engine, events of one deployment."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.screen import Screen
from textual.widgets import Input

from tui import keys
from tui.session import Session
from tui.view.options import chosen, neighbour
from tui.view.overview import overview, shown_as_grid
from tui.view.ranks import FILTER_HELP, SORTS
from tui.widgets.lines import Lines


class OverviewScreen(Screen[None]):
    BINDINGS = [Binding(key.key, key.action, key.label, show=False) for key in keys.OVERVIEW]  # noqa: RUF012
    CSS = """
    OverviewScreen { layout: vertical; overflow: hidden; }
    #ranks { height: 1fr; }
    #filter { display: none; height: 1; border: none; padding: 0 1; background: $panel; }
    #filter.-open { display: block; }
    """
    AUTO_FOCUS = ""  # the filter would take every key
    REDRAW_S = 0.25

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._parts = {name: Lines(id=name) for name in ("head", "ranks", "panels", "foot")}

    def compose(self) -> ComposeResult:
        yield from (self._parts[name] for name in ("head", "ranks", "panels"))
        yield Input(placeholder=FILTER_HELP, id="filter", select_on_focus=False)
        yield self._parts["foot"]

    def on_mount(self) -> None:
        self.set_interval(self.REDRAW_S, self.redraw)

    def on_resize(self) -> None:
        self.redraw()

    def on_screen_resume(self) -> None:
        self.redraw()

    def redraw(self) -> None:
        if not self.is_current or not self.size.width:
            return
        snapshot, feed = self._session.look()
        typing = self._input.has_class("-open")
        columns = self.size.width - 1  # the last one is the scroll bar's
        usable = keys.FILTERING if typing else keys.OVERVIEW + keys.APP
        frame = overview(snapshot, feed, self._session.options, usable, columns, self.size.height - typing)
        for name, lines in (("head", frame.head), ("ranks", frame.ranks), ("panels", frame.panels), ("foot", frame.foot)):
            part = self._parts[name]
            if name != "ranks":
                part.styles.height = len(lines)
            part.show(lines)

    @property
    def _input(self) -> Input:
        return self.query_one("#filter", Input)

    def _set(self, **changes: str) -> None:
        self._session.set(**changes)
        self.redraw()

    def action_next_form(self) -> None:
        """To the other form than the one on the screen, whichever chose it."""
        self._set(form="table" if self._in_grid() else "grid")

    def _in_grid(self) -> bool:
        snapshot, _ = self._session.look()
        deployment = chosen(snapshot, self._session.options)
        room = self.size.height - self._parts["head"].size.height - self._parts["foot"].size.height
        return deployment is not None and shown_as_grid(deployment, self._session.options, self.size.width - 1, room)

    def action_next_sort(self) -> None:
        now = SORTS.index(self._session.options.sort)
        self._set(sort=SORTS[(now + 1) % len(SORTS)], form="table")

    def action_next_deployment(self, step: int) -> None:
        self._set(deployment=neighbour(self._session.look()[0], self._session.options, step))

    def action_choose(self, index: int) -> None:
        snapshot, _ = self._session.look()
        if snapshot is not None and index < len(snapshot.deployments):
            self._set(deployment=snapshot.deployments[index].name)

    def action_scroll(self, lines: int) -> None:
        self._parts["ranks"].scroll_relative(y=lines, animate=False)

    def action_filter(self) -> None:
        self._input.add_class("-open")
        self._input.focus()
        self._set(form="table")

    def action_clear_filter(self) -> None:
        self._input.value = ""
        self.action_keep_filter()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        self._set(filter=event.value.strip())

    @on(Input.Submitted, "#filter")
    def action_keep_filter(self) -> None:
        self._input.remove_class("-open")
        self.set_focus(None)
        self.redraw()
