"""Log lines for the screen: wrapped, filtered, the writer in front where there are several."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from tui.logs import LogLine
from tui.view.line import Line, Span, clean, crop

_BAD = ("error", "traceback", "exception", "fatal", "critical")


def log_lines(lines: Iterable[LogLine], several: bool, wanted: str, columns: int) -> list[Line]:
    """Those that hold `wanted`, whatever its capitals. `several`: name the writer."""
    wanted = wanted.lower()
    drawn: list[Line] = []
    for line in lines:
        if not wanted or wanted in f"{line.writer} {line.text}".lower():
            drawn.extend(_wrapped(line, several, columns))
    return drawn


@lru_cache(8192)  # the same lines are asked for at every frame
def _wrapped(line: LogLine, several: bool, columns: int) -> tuple[Line, ...]:
    """Cut at the column, as a terminal would: log lines are often tables."""
    lead = Span(f" {line.writer:>8} " if several else " ", "dim")
    room = max(1, columns - len(lead.text))
    text = clean(line.text.rstrip())
    role = "bad" if any(word in text.lower() for word in _BAD) else "warn" if "warn" in text.lower() else ""
    role = "dim" if text.startswith("=== ") else role
    pieces = [text[i : i + room] for i in range(0, len(text), room)] or [""]
    rest = lead._replace(text=" " * len(lead.text))
    return tuple(crop((rest if i else lead, Span(piece, role)), columns) for i, piece in enumerate(pieces))
