"""What a terminal of a given size would show, as text: its characters, and a letter for the role or weight of each."""

import io
import os
from pathlib import Path

from rich.console import Console
from rich.style import Style

from tui.theme import styles

GOLDEN = Path(__file__).parent / "golden"
LETTERS = {"": ".", "dim": "d", "bold": "b", "title": "T", "accent": "a", "graph": "g", "kv": "k", "wait": "w"}
LETTERS |= {"good": "G", "warn": "W", "bad": "B"}  # a role that looks like one of these has its letter


def shown(app):
    """The lines on the screen, blanks at their ends removed."""
    return ["".join(segment.text for segment in strip).rstrip() for strip in _strips(app)]


def roles(app):
    """For each character the letter of its role; `x` is none of ours."""
    known = {}
    for role, letter in LETTERS.items():
        known.setdefault(_look(styles(app.current_theme, True)[role]), letter)
    known[_look(Style.parse(app.current_theme.foreground))] = "."
    return _marked(app, lambda style: known.get(_look(style), "x"))


def weights(app):
    """For each character `b` bold, `d` dim, `.` neither."""
    return _marked(app, lambda style: "b" if style.bold else "d" if style.dim else ".")


def escapes(app):
    """The bytes that a truecolor terminal would get."""
    file = io.StringIO()
    console = Console(file=file, color_system="truecolor", force_terminal=True, width=app.size.width, height=app.size.height)
    console.print(app.screen._compositor.render_update(full=True))
    return file.getvalue()


def check_golden(name, lines):
    """Compare with golden/NAME.txt; SHARDSCOPE_GOLDEN=write makes it anew."""
    path, now = GOLDEN / f"{name}.txt", "\n".join(lines) + "\n"
    if os.environ.get("SHARDSCOPE_GOLDEN") == "write":
        path.write_text(now, encoding="utf-8")
    assert now == path.read_text(encoding="utf-8")


def _strips(app):
    return app.screen._compositor.render_strips()[: app.size.height]


def _look(style):
    return style.color and style.color.get_truecolor(), bool(style.bold), bool(style.dim)


def _marked(app, letter):
    def marks(segment):
        return "".join(" " if character == " " else letter(segment.style or Style.null()) for character in segment.text)

    return ["".join(marks(segment) for segment in strip).rstrip() for strip in _strips(app)]
