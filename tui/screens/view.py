"""What all screens of the dashboard have in common: head, a body that scrolls, panels, footer, and how they are redrawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.screen import Screen

from tui import keys
from tui.keys import Key
from tui.session import Session
from tui.view.frame import Frame
from tui.view.options import neighbour
from tui.widgets.lines import Lines

REDRAW_S = 0.25


class View(Screen[None]):
    """A screen: `frame` says what is drawn, `KEYS` which keys it has beside everybody's.

    One that has widgets of its own overrides `middle`; what stands there and is called `body` or `panels` is drawn by `frame`.
    """

    KEYS: ClassVar[tuple[Key, ...]] = ()
    CSS = """
    View { layout: vertical; overflow: hidden; }
    #body { height: 1fr; }
    """
    AUTO_FOCUS = ""  # no field takes the keys unasked

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.BINDINGS = [Binding(key.key, key.action, key.label, show=False) for key in (*cls.KEYS, *keys.VIEW)]
        super().__init_subclass__(**kwargs)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self._parts = {name: Lines(id=name) for name in ("head", "body", "panels", "foot")}

    def compose(self) -> ComposeResult:
        yield self._parts["head"]
        yield from self.middle()
        yield self._parts["foot"]

    def middle(self) -> ComposeResult:
        yield self._parts["body"]
        yield self._parts["panels"]

    def frame(self, columns: int, rows: int) -> Frame:
        """The whole screen, no line wider than `columns`, made for `rows`."""
        raise NotImplementedError

    def usable_keys(self) -> Sequence[Key]:
        """What the footer offers now."""
        return (*self.KEYS, *keys.VIEW, *keys.APP)

    def on_mount(self) -> None:
        self.set_interval(REDRAW_S, self.redraw)

    def on_resize(self) -> None:
        self.redraw()

    def on_screen_resume(self) -> None:
        self.redraw()

    def redraw(self) -> None:
        if not self.is_current or not self.size.width:
            return
        columns = max(1, self.size.width - 1)  # the last one is the scroll bar's
        frame = self.frame(columns, self.size.height)
        for name, lines in (("head", frame.head), ("body", frame.body), ("panels", frame.panels), ("foot", frame.foot)):
            part = self._parts[name]
            if name != "body":
                part.styles.height = len(lines)
            part.show(lines)

    def set_options(self, **changes: Any) -> None:
        """Change how things are shown, and show it."""
        self.session.set(**changes)
        self.redraw()

    def action_next_deployment(self, step: int) -> None:
        self.set_options(deployment=neighbour(self.session.look()[0], self.session.options, step))

    def action_choose(self, index: int) -> None:
        snapshot, _ = self.session.look()
        if snapshot is not None and index < len(snapshot.deployments):
            self.set_options(deployment=snapshot.deployments[index].name)

    def action_scroll(self, lines: int) -> None:
        self._parts["body"].scroll_relative(y=lines, animate=False)
