"""Lanes drawn to scale: a character is a stretch of time, and shows what took most of it."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

from telemetry.records import StepRecord
from tui.view.columns import MARK
from tui.view.lanes import BUBBLE, DECODE, HOST, IDLE, MIXED, PREFILL, RECV, SAMPLE, SEND, Lane
from tui.view.line import Line, Span

UNKNOWN = "~"  # after a rank's last step that is over
_LOOKS = {  # how a stretch is filled, and its role
    PREFILL: ("▓", "kv"),
    MIXED: ("▒", "kv"),
    DECODE: ("█", "weights"),
    SAMPLE: ("s", "accent"),
    SEND: (">", "accent"),
    RECV: ("·", "wait"),
    BUBBLE: ("░", "wait"),
    HOST: (":", "dim"),
    IDLE: (" ", ""),
    UNKNOWN: ("~", "dim"),
}
LEGEND = ("F prefill", "D decode", "M both", "· waits for input", "░ bubble", ": host", "> send", "s sample", "~ not over yet")
_STEPS_MS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_TICK = 8  # columns that a label of the axis takes at least


class Window(NamedTuple):
    """The time that is drawn."""

    start_ns: int
    end_ns: int

    @property
    def span_ms(self) -> float:
        return (self.end_ns - self.start_ns) / 1e6


def axis(window: Window, zero_ns: int, columns: int) -> str:
    """Milliseconds before `zero_ns`, each label beginning where its tick is."""
    if columns < 1:
        return ""
    each = next((step for step in _STEPS_MS if columns * step / window.span_ms >= _TICK), _STEPS_MS[-1])
    cells = [" "] * columns
    number = -int((zero_ns - window.start_ns) / 1e6 // each)
    while True:
        at_ms = number * each
        column = int((zero_ns + at_ms * 1e6 - window.start_ns) * columns / (window.end_ns - window.start_ns))
        if column >= columns:
            return "".join(cells)
        label = "|" + (f"{at_ms:,.1f}" if each < 1 else f"{at_ms:,.0f}")
        if column >= 0 and column + len(label) <= columns:
            cells[column : column + len(label)] = label
        number += 1


def drawn(lane: Lane, window: Window, columns: int, marked: StepRecord | None, named: bool = True) -> Line:
    """One row, `columns` wide; one that is not `named` makes the named one above it taller."""
    slots = {record.start_ns: record.slot for record in lane.steps}
    spans: list[Span] = []
    for (kind, step), cells in groupby(_cells(lane, window, columns)):
        length = sum(1 for _ in cells)
        fill, role = _LOOKS[kind]
        text = fill * length
        if kind in (PREFILL, MIXED, DECODE):
            slot = slots.get(step, 0)
            name = f"{kind}{slot}" if length > 1 else str(slot % 10)
            mark = MARK if marked is not None and step == marked.start_ns else ""
            text = (mark + name + text)[:length] if named else text
        if marked is not None and step == marked.start_ns:
            role = "bold"
        spans.append(Span(text, role))
    return tuple(spans)


def _cells(lane: Lane, window: Window, columns: int) -> list[tuple[str, int]]:
    """Kind and step that took most of each column's time."""
    each = (window.end_ns - window.start_ns) / max(1, columns)
    longest = [0.0] * columns
    cells = [(IDLE, -1)] * columns
    known = max(0, round((lane.known_ns - window.start_ns) / each))
    cells[known:] = [(UNKNOWN, -1)] * (columns - known)
    for stretch in lane.within(window.start_ns, window.end_ns):
        begin = max(0.0, (stretch.start_ns - window.start_ns) / each)
        end = min(float(columns), (stretch.end_ns - window.start_ns) / each)
        for column in range(int(begin), min(columns, int(end) + 1)):
            share = min(end, column + 1) - max(begin, column)
            if share > longest[column]:
                longest[column] = share
                cells[column] = stretch.kind, stretch.step
    return cells
