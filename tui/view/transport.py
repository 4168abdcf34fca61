"""Where a replay is: its controls in a line, and a bar with what happened on the way. Shown under every screen of a replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from telemetry.records import EventRecord
from tui.view.line import Line, Part, Span, crop, joined, keep, line, shortened

_NEWS_S = 10.0  # how long an event's words stand beside the controls
_EDGE = 2  # cells of the bar's ends
_TICKS = {  # of an event: glyph, role; the last wins where several share a cell
    "info": ("·", "dim"),
    "reconfigure": ("^", "accent"),
    "warning": ("!", "warn"),
    "error": ("x", "bad"),
}
_MARK = ("m", "title")
_ORDER = [glyph for glyph, _ in (*_TICKS.values(), _MARK)]
_LEGEND = {"^": "reconfigured", "!": "warning", "x": "error", "m": "mark"}


class Place(NamedTuple):
    """Moments are seconds from the recording's beginning. `events`: (moment, event), in order."""

    name: str
    moment: float
    seconds: float
    speed: float
    playing: bool
    events: Sequence[tuple[float, EventRecord]] = ()
    marks: Sequence[float] = ()


def transport(place: Place, columns: int, rows: int) -> list[Line]:
    """One or two lines, or none on a screen of so few `rows` that they would take the place of what is replayed."""
    if rows < 6 or columns < 8:
        return []
    return [_controls(place, columns), _bar(place, columns)] if rows >= 12 else [_controls(place, columns)]


def moment_at(place: Place, column: int, columns: int) -> float:
    """What a click on that column of the bar means: the tick there, if there is one, else the moment."""
    room = _room(columns)
    cell = min(max(0, column - _EDGE), room - 1)
    there = [moment for moment in (*place.marks, *(at for at, _ in place.events)) if _cell(moment, place.seconds, room) == cell]
    if there:
        return there[-1] if cell == room - 1 else there[0]
    return place.seconds if cell == room - 1 else cell / max(1, room - 1) * place.seconds


def clock(seconds: float, tenths: bool = True) -> str:
    """`00:14:32.4`."""
    whole = int(10 * seconds + 1e-6)
    text = f"{whole // 36_000:02d}:{whole // 600 % 60:02d}:{whole // 10 % 60:02d}"
    return f"{text}.{whole % 10}" if tenths else text


def _controls(place: Place, columns: int) -> Line:
    now, end = clock(place.moment), clock(place.seconds, tenths=False)
    play = Span("|>" if place.playing else "||", "title" if place.playing else "warn", "app.pause")
    last = next((event for at, event in reversed(place.events) if 0 <= place.moment - at < _NEWS_S), None)
    near = f"{_glyph(last)[0]} {shortened(last.text, max(0, columns // 3))}" if last else ""
    parts = [
        Part(0, (Span("REPLAY", "title"),)),
        Part(4, line(shortened(place.name, max(8, columns // 4)))),
        Part(0, (play,)),
        Part(2, line(f"{place.speed:g}x", "" if place.speed == 1 else "accent")),
        Part(0, (Span(now, "bold"), Span(f" / {end}", "dim"))),
        Part(5, line(near, _glyph(last)[1]) if last else ()),
        Part(6, _legend(place)),
    ]
    return crop((Span(" "), *keep(parts, columns - 1)), columns)


def _bar(place: Place, columns: int) -> Line:
    room = _room(columns)
    cells: dict[int, tuple[str, str]] = {}
    for moment, event in place.events:
        _put(cells, _cell(moment, place.seconds, room), *_glyph(event))
    for moment in place.marks:
        _put(cells, _cell(moment, place.seconds, room), *_MARK)
    here = _cell(place.moment, place.seconds, room)
    spans = [Span(" |", "dim")]
    for cell in range(room):
        glyph, role = cells.get(cell, ("━", "accent") if cell < here else ("─", "dim"))
        spans.append(Span("█", "bold") if cell == here else Span(glyph, role))
    return crop((*spans, Span("|", "dim")), columns)


def _put(cells: dict[int, tuple[str, str]], cell: int, glyph: str, role: str) -> None:
    if cell not in cells or _ORDER.index(glyph) >= _ORDER.index(cells[cell][0]):
        cells[cell] = glyph, role


def _glyph(event: EventRecord) -> tuple[str, str]:
    reconfigured = event.severity == "info" and event.kind == "reconfigure"
    return _TICKS["reconfigure" if reconfigured else event.severity if event.severity in _TICKS else "info"]


def _legend(place: Place) -> Line:
    """Of the ticks that are there."""
    there = dict(_glyph(event) for _, event in place.events) | (dict([_MARK]) if place.marks else {})
    return joined(
        (Span(f"{glyph} ", there[glyph]), Span(f"{meaning} ", "dim")) for glyph, meaning in _LEGEND.items() if glyph in there
    )


def _room(columns: int) -> int:
    return max(1, columns - _EDGE - 1)


def _cell(moment: float, seconds: float, room: int) -> int:
    share = moment / seconds if seconds > 0 else 0.0
    return min(room - 1, max(0, round(share * (room - 1))))
