"""Every key, once: bindings, footer, palette and help are all made from this table.

Nothing that tmux or a shell takes: no ctrl+a, ctrl+b, ctrl+enter.
"""

from __future__ import annotations

from typing import NamedTuple


class Key(NamedTuple):
    """`drop`: when the footer is too narrow the highest goes first; `None` is never in the footer."""

    key: str  # in Textual's names, several separated by commas
    shown: str
    action: str
    label: str
    help: str
    drop: int | None


SCREENS = (  # a number key a screen; `name` is its mode
    ("overview", Key("1", "1", "app.switch_mode('overview')", "Overview", "ranks, engine and events of one deployment", 4)),
)

APP = (
    *(key for _name, key in SCREENS),
    Key("space", "space", "app.pause", "pause", "freeze what is shown; collection goes on", 1),
    Key("t", "t", "app.next_theme", "theme", "next theme: dark, light, colour-blind", 6),
    Key("u", "u", "app.next_units", "units", "GiB (1024) or GB (1000)", 7),
    Key("ctrl+s", "^s", "app.save_picture", "SVG", "save the screen as a picture in the working directory", 9),
    Key("ctrl+p", "^p", "app.command_palette", "palette", "all commands by name", 8),
    Key("question_mark", "?", "app.help", "help", "this page", 0),
    Key("q", "q", "app.quit", "quit", "leave; daemon and ranks go on", 0),
)

VIEW = (  # what every screen can
    Key("tab", "tab", "screen.next_deployment(1)", "next deployment", "show the next deployment", None),
    Key("shift+tab", "⇧tab", "screen.next_deployment(-1)", "previous deployment", "show the previous one", None),
    Key("down,j", "down j", "screen.scroll(1)", "down", "scroll", None),
    Key("up,k", "up k", "screen.scroll(-1)", "up", "scroll", None),
    Key("pagedown", "pgdn", "screen.scroll(10)", "page", "scroll", None),
    Key("pageup", "pgup", "screen.scroll(-10)", "page", "scroll", None),
)

OVERVIEW = (
    Key("v", "v", "screen.next_form", "table/grid", "ranks by place in the layout, or one a line", 2),
    Key("slash", "/", "screen.filter", "filter", "show only the ranks that match, one a line", 3),
    Key("s", "s", "screen.next_sort", "sort", "next figure to sort the ranks by, greatest first", 5),
    Key("escape", "esc", "screen.clear_filter", "clear filter", "show all ranks again", None),
)

FILTERING = (  # while the filter is typed every other key is text
    Key("enter", "enter", "screen.keep_filter", "keep", "", 0),
    Key("escape", "esc", "screen.clear_filter", "clear", "", 0),
)
