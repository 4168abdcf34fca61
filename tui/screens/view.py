"""What all screens of the dashboard have in common: head, a body that scrolls, panels, footer, and how they are redrawn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding

from tui import keys
from tui.keys import Key
from tui.screens.replaying import Replaying
from tui.session import Session
from tui.view.frame import Frame
from tui.view.line import text
from tui.view.manual import Glossary
from tui.view.options import OFTENEST_S, SELDOMEST_S, neighbour
from tui.widgets.lines import Lines
from tui.widgets.seekbar import SeekBar


class View(Replaying):
    """A screen: `frame` says what is drawn, `KEYS` which keys it has beside everybody's, `GLOSSARY` what its figures mean.

    `TABLE` names its keys in the user's key map; from the class's name unless it is given. A screen that has widgets of its own
    overrides `middle`; what stands there and is called `body` or `panels` is drawn by `frame`.
    """

    KEYS: ClassVar[tuple[Key, ...]] = ()
    GLOSSARY: ClassVar[Glossary] = ()
    TABLE: ClassVar[str] = ""
    OVER_REPLAY: ClassVar[bool] = False  # whether its keys come before those of a replay that is shown
    CSS = """
    View { layout: vertical; overflow: hidden; }
    #body { height: 1fr; }
    """
    AUTO_FOCUS = ""  # no field takes the keys unasked

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.TABLE = cls.__dict__.get("TABLE") or cls.__name__.removesuffix("Screen").lower()
        cls.BINDINGS = [binding for table, own in (*cls._steering(), ("view", keys.VIEW)) for binding in bindings(table, own)]
        super().__init_subclass__(**kwargs)

    @classmethod
    def _steering(cls) -> list[tuple[str, tuple[Key, ...]]]:
        """Its own keys and a replay's, those that win first."""
        own = (cls.TABLE, cls.KEYS)
        replay, elsewhere = ("replay", keys.REPLAY), ("replay", keys.REPLAY_ELSEWHERE)
        return [own, replay, elsewhere] if cls.OVER_REPLAY else [replay, own, elsewhere]

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self._parts = {name: Lines(id=name) for name in ("head", "body", "panels", "foot")}
        self._seek_bar = SeekBar()
        self._in_sight: tuple[int, int] | None = None
        self._ticks = 0  # since it was drawn

    def compose(self) -> ComposeResult:
        yield self._parts["head"]
        yield from self.middle()
        yield self._seek_bar
        yield self._parts["foot"]

    def middle(self) -> ComposeResult:
        yield self._parts["body"]
        yield self._parts["panels"]

    @abstractmethod
    def frame(self, columns: int, rows: int) -> Frame:
        """The whole screen, no line wider than `columns`, made for `rows`."""

    def usable_keys(self) -> Sequence[Key]:
        """What the footer offers now."""
        return self.all_keys()

    def all_keys(self) -> tuple[Key, ...]:
        """As the user has mapped them, with the word why for those that are off."""
        own = self._steering() if self.session.replay else [(self.TABLE, self.KEYS)]
        offered = self.session.offered((*own, ("view", keys.VIEW), ("app", keys.APP)))
        if not self.session.can_leave:
            offered = tuple(key for key in offered if key.method != "replay_leave")
        here = f"app.switch_mode('{self.TABLE}')"
        return tuple(key._replace(here=True) if key.action == here else key for key in offered)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action.startswith("replay_") and self.session.replay is None:
            return False
        return self.session.allows(action, self.KEYS) and super().check_action(action, parameters)

    def on_mount(self) -> None:
        self.set_interval(OFTENEST_S, self._tick)

    def _tick(self) -> None:
        """A replay moves on its own screens as the recording does."""
        self._ticks += 1
        if self.session.replay or self._ticks * OFTENEST_S >= self.session.options.every_s:
            self.redraw()

    def on_resize(self) -> None:
        self.redraw()

    def on_screen_resume(self) -> None:
        self.redraw()

    def redraw(self) -> None:
        if not self.is_current or not self.size.width:
            return
        self._ticks = 0
        columns = max(1, self.size.width - 1)  # the last one is the scroll bar's
        rows = self.size.height - self._seek_bar.place(self.place_of_replay(), columns, self.size.height)
        frame = self.frame(columns, rows)
        if self.session.options.maximised and frame.panels:
            frame = self.frame(columns, rows + len(frame.panels)).without_panels()
        for name, lines in (("head", frame.head), ("body", frame.body), ("panels", frame.panels), ("foot", frame.foot)):
            part = self._parts[name]
            if name != "body":
                part.styles.height = len(lines)
            part.show(lines)
        if frame.focus and frame.focus != self._in_sight:
            self.call_after_refresh(self._parts["body"].keep_in_sight, *frame.focus)
        self._in_sight = frame.focus

    def words(self) -> str:
        """What the screen says, and what of its body is out of sight."""
        parts = [self._parts[name].lines for name in ("head", "body", "panels")]
        return "\n".join(text(line).rstrip() for lines in parts for line in lines) + "\n"

    def set_options(self, **changes: Any) -> None:
        """Change how things are shown, and show it."""
        self.session.set(**changes)
        self.redraw()

    def action_redraw_oftener(self, doublings: int) -> None:
        every_s = self.session.options.every_s * 2.0**-doublings
        self.set_options(every_s=min(max(every_s, OFTENEST_S), SELDOMEST_S))

    def action_next_deployment(self, step: int) -> None:
        self.set_options(deployment=neighbour(self.session.look()[0], self.session.options, step))

    def action_choose(self, index: int) -> None:
        snapshot, _ = self.session.look()
        if snapshot is not None and index < len(snapshot.deployments):
            self.set_options(deployment=snapshot.deployments[index].name)

    def action_scroll(self, lines: int) -> None:
        self._parts["body"].scroll_relative(y=lines, animate=False)


def bindings(table: str, table_keys: Sequence[Key]) -> list[Binding]:
    """Of a key table, with the names by which the user's key map finds them."""
    return [Binding(key.key, key.action, key.label, show=False, id=key.named(table)) for key in table_keys]
