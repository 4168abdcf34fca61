"""The application: its screens, its keys, its themes. What is on a screen is the screen's affair."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from textual import on
from textual.app import App, SystemCommand
from textual.events import Key as KeyPress
from textual.screen import Screen

from tui import keys
from tui.clipboard import clipped
from tui.hangup import end_with_the_terminal
from tui.keymap import Keymap
from tui.screens.catalogue import Catalogue
from tui.screens.help import HelpScreen
from tui.screens.stop import StopScreen
from tui.screens.view import View, bindings
from tui.session import Session
from tui.source import Source
from tui.steering import Order, Steering, Told
from tui.theme import DARK, THEMES, next_theme
from tui.view.figures import UNITS
from tui.view.options import chosen
from tui.view.verdict import verdict

SCREENS = Catalogue(  # by the names of `keys.SCREENS`
    overview="overview.OverviewScreen",
    rank="rank.RankScreen",
    pipeline="pipeline.PipelineScreen",
    collectives="collectives.CollectivesScreen",
    experts="experts.ExpertsScreen",
    deploy="deploy.DeployScreen",
    stress="stress.StressScreen",
    profiles="profiles.ProfilesScreen",
    plan="plan.PlanScreen",
)
OVERLAYS = Catalogue(logs="logs.LogsScreen", events="events.EventsScreen")  # over any of them, until closed
_FIRST_S = 0.02  # between two looks at a source that has nothing yet
_WARM_S = 0.3  # between the imports of two screens that nobody has seen yet
_YOUNG = 50_000  # objects: with Python's 700 a third of the time went to looking for garbage, of which a frame leaves little


class Dashboard(App[None]):
    TITLE = "shardscope"
    DEFAULT_MODE = "overview"
    BINDINGS = [*bindings("app", keys.APP), ("ctrl+c", "quit")]  # noqa: RUF012
    CSS = "Toast { max-width: 90%; }"

    def __init__(self, source: Source, readonly: bool = False, run_dir: Path | None = None, keymap: Keymap | None = None) -> None:
        """`run_dir`: the daemon's that may be steered from here; `None` for a replay or a script, which cannot be."""
        # With native colours Textual's NO_COLOR filter removes every colour; else it only turns them into greys.
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        self.session = Session(source, readonly, run_dir, keymap)
        if keymap is not None:
            self.set_keymap(keymap.bound)
        self._stopping: set[Order] = set()
        self._unseen = [*SCREENS, *OVERLAYS]
        for name in SCREENS:
            self.add_mode(name, partial(self._screen, name))
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = DARK.name

    def _screen(self, name: str) -> View:
        return SCREENS[name](self.session)

    def on_mount(self) -> None:
        if not self.is_headless:  # who ends us shall find the terminal as it was
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)
        self.session.source.start()
        if self.session.recordings is not None:
            self.session.recordings.start()
        self._waiting = self.set_interval(_FIRST_S, self._first_look)
        self.set_interval(_WARM_S, self._warm, repeat=len(self._unseen) - 1)

    def _first_look(self) -> None:
        """What is there at last is shown at once."""
        if self.session.source.latest() is not None:
            self._waiting.stop()
            self._redraw()

    def _warm(self) -> None:
        """One screen at a time, so that the first key to it is answered as quickly as the next ones."""
        name = self._unseen.pop(0)
        (SCREENS if name in SCREENS else OVERLAYS)[name]
        if not self._unseen and not self.is_headless:  # a test's process has many of us, and wants its garbage back
            gc.freeze()
            gc.set_threshold(_YOUNG)

    def on_unmount(self) -> None:
        self.session.close()

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        for key in self._keys(screen):
            if key.action != "app.command_palette" and ".scroll(" not in key.action:
                title = f"{key.label.capitalize()} ({key.shown})"
                run = partial(self.action_explain, key.off) if key.off else partial(self.run_action, key.action, screen)
                yield SystemCommand(title, f"off: {key.off}" if key.off else key.help, run)

    def _keys(self, screen: Screen[Any]) -> tuple[keys.Key, ...]:
        return screen.all_keys() if isinstance(screen, View) else ()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self.session.allows(action, keys.APP) and super().check_action(action, parameters)

    def on_key(self, event: KeyPress) -> None:
        """Who presses a key that is off is told why."""
        for key in self._keys(self.screen):
            if key.off and event.key in key.key.split(","):
                self.action_explain(key.off)

    def action_explain(self, why: str) -> None:
        self.notify(f"Not now: {why}.", severity="warning")

    def _redraw(self) -> None:
        if isinstance(self.screen, View):
            self.screen.redraw()

    async def action_switch_mode(self, mode: str) -> None:
        """To the screen itself: what lies over it is closed."""
        self._close_overlays()
        if mode in SCREENS:
            self.switch_mode(mode)

    def _close_overlays(self) -> None:
        while len(self.screen_stack) > 1:
            self.pop_screen()

    def action_overlay(self, name: str) -> None:
        """Over the screen, in place of another overlay; the same again closes it."""
        again = isinstance(self.screen, OVERLAYS[name])
        self._close_overlays()
        if not again:
            self.push_screen(OVERLAYS[name](self.session))

    def action_pause(self) -> None:
        self.session.pause_or_resume()
        self._redraw()

    def action_next_theme(self) -> None:
        self.theme = next_theme(self.theme)

    def action_next_units(self) -> None:
        now = UNITS.index(self.session.options.units)
        self.session.set(units=UNITS[(now + 1) % len(UNITS)])
        self._redraw()

    def action_maximise(self) -> None:
        self.session.set(maximised=not self.session.options.maximised)
        self._redraw()

    def action_save_picture(self) -> None:
        try:
            place = os.getcwd()
        except OSError:  # somebody removed it
            place = ""
        if self.is_web or os.access(place, os.W_OK):
            self.deliver_screenshot(path=place)
        else:
            self.notify(f"No picture: {place or 'the working directory'} cannot be written.", severity="error")

    def action_copy(self) -> None:
        if isinstance(self.screen, View):
            text, whole = clipped(self.screen.words())
            self.copy_to_clipboard(text)
            lines = f"{text.count(chr(10))} lines"
            self.notify(f"Copied {lines}." if whole else f"Copied the first {lines}: a terminal takes no more.")

    def action_help(self) -> None:
        if isinstance(self.screen, View):
            here = [key for key in self._keys(self.screen) if key.action.startswith("screen.")]
            everywhere = [key for key in self._keys(self.screen) if key not in here]
            sections = (("this screen", here), ("everywhere", everywhere))
            self.push_screen(HelpScreen(sections, self.screen.GLOSSARY))

    async def action_deploy(self) -> None:
        """With the verdict's remedy, where it has one that a spec can say."""
        snapshot, feed = self.session.look()
        await self.open_deploy(dict(verdict(snapshot, feed, self.session.options).fields))

    async def open_deploy(self, remedy: dict[str, Any]) -> None:
        """The deploy screen, which begins with these fields of a spec changed."""
        self.session.proposal = remedy
        await self.action_switch_mode("deploy")

    async def action_stress(self) -> None:
        await self.action_switch_mode("stress")

    def action_stop(self) -> None:
        """Asks for the name, then has the daemon drain and stop what is shown."""
        deployment = chosen(self.session.look()[0], self.session.options)
        if deployment is None:
            self.notify("Nothing is deployed, so there is nothing to stop.", severity="warning")
        else:
            self.push_screen(StopScreen(deployment.name, deployment.engine.running), self._stop)

    def _stop(self, name: str | None) -> None:
        if name and self.session.run_dir is not None:
            self._stopping.add(Steering(self, self.session.run_dir).stop(name))
            self.notify(f"{name} drains, then stops.")

    def action_record(self) -> None:
        """Has the daemon record what is shown, or end its recording."""
        deployment = chosen(self.session.look()[0], self.session.options)
        if deployment is None or self.session.recordings is None or self.session.run_dir is None:
            self.notify("Nothing is deployed, so there is nothing to record.", severity="warning")
        elif why := self.session.recordings.toggle(Steering(self, self.session.run_dir), deployment.name):
            self.notify(why, severity="error")

    @on(Told)
    def _told(self, told: Told) -> None:
        words, bad = self.session.recordings.said(told) if self.session.recordings else ("", False)
        if words:
            self.notify(words, severity="error" if bad else "information", timeout=15 if bad else 8)
        if told.over and told.order in self._stopping:
            self._stopping.discard(told.order)
            if told.error:
                self.notify(f"{told.order.name} was not stopped: {told.error}", severity="error", timeout=15)
            else:
                self.notify(f"{told.order.name} is stopped.")


def tables() -> dict[str, tuple[keys.Key, ...]]:
    """Every key table by the name that it has in the user's key map."""
    own = {screen.TABLE: screen.KEYS for screen in (*SCREENS.values(), *OVERLAYS.values())}
    return {"app": keys.APP, "view": keys.VIEW, **own, "replay": (*keys.REPLAY, *keys.REPLAY_ELSEWHERE)}


def main(source: Source, readonly: bool = False, run_dir: Path | None = None, keymap: Keymap | None = None) -> None:
    """Run the dashboard until the user leaves it, or the terminal does."""
    end_with_the_terminal()
    Dashboard(source, readonly, run_dir, keymap).run()
