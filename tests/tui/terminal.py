"""What a terminal of a given size would show, as text without colour: goldens that a reviewer can read."""

import io
import os
from pathlib import Path

from rich.console import Console

GOLDEN = Path(__file__).parent / "golden"


def shown(app):
    """The lines on the screen, blanks at their ends removed."""
    width, height = app.size
    console = Console(file=io.StringIO(), record=True, color_system=None, width=width, height=height, legacy_windows=False)
    console.print(app.screen._compositor.render_update(full=True))
    return [line.rstrip() for line in console.export_text().split("\n")][:height]


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
