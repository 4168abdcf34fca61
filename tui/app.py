"""The application: its screens, its keys, its themes. What is on a screen is the screen's affair."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.screen import Screen

from tui import keys
from tui.screens.help import HelpScreen
from tui.screens.overview import OverviewScreen
from tui.screens.view import View
from tui.session import Session
from tui.source import Source
from tui.theme import DARK, THEMES, next_theme
from tui.view.figures import UNITS

SCREENS: dict[str, type[View]] = {"overview": OverviewScreen}  # by the names of `keys.SCREENS`


class Dashboard(App[None]):
    TITLE = "shardscope"
    DEFAULT_MODE = "overview"
    BINDINGS = [Binding(key.key, key.action, key.label, show=False) for key in keys.APP]  # noqa: RUF012

    def __init__(self, source: Source, readonly: bool = False, run_dir: Path | None = None) -> None:
        """`run_dir`: the daemon's that may be steered from here; `None` for a replay or a script, which cannot be."""
        # With native colours Textual's NO_COLOR filter removes every colour; else it only turns them into greys.
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        self.session = Session(source, readonly, run_dir)
        for name, screen in SCREENS.items():
            self.add_mode(name, partial(screen, self.session))
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = DARK.name

    def on_mount(self) -> None:
        self.session.source.start()

    def on_unmount(self) -> None:
        self.session.source.close()

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        for key in (*self._keys(screen), *keys.APP):
            if key.action != "app.command_palette" and ".scroll(" not in key.action:
                title = f"{key.label.capitalize()} ({key.shown})"
                yield SystemCommand(title, key.help, partial(self.run_action, key.action, screen))

    @staticmethod
    def _keys(screen: Screen[object]) -> tuple[keys.Key, ...]:
        return (*screen.KEYS, *keys.VIEW) if isinstance(screen, View) else ()

    def _redraw(self) -> None:
        if isinstance(self.screen, View):
            self.screen.redraw()

    def action_pause(self) -> None:
        self.session.pause_or_resume()
        self._redraw()

    def action_next_theme(self) -> None:
        self.theme = next_theme(self.theme)

    def action_next_units(self) -> None:
        now = UNITS.index(self.session.options.units)
        self.session.set(units=UNITS[(now + 1) % len(UNITS)])
        self._redraw()

    def action_save_picture(self) -> None:
        self.deliver_screenshot(path=os.getcwd())

    def action_help(self) -> None:
        self.push_screen(HelpScreen((("this screen", self._keys(self.screen)), ("everywhere", keys.APP))))


def main(source: Source, readonly: bool = False, run_dir: Path | None = None) -> None:
    """Run the dashboard until the user leaves it."""
    Dashboard(source, readonly, run_dir).run()
