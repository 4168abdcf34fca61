"""What happened: a panel of the newest, and the whole list."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from telemetry.records import EventRecord
from telemetry.snapshot import DeploymentView, Snapshot
from tui.view.figures import age, whole
from tui.view.line import BLANK, Line, Span, clean, crop, line, rule

SEVERITIES = ("all", "warnings and errors", "errors")
_SEVERITY = {"info": ("·", "dim"), "warning": ("!", "warn"), "error": ("×", "bad")}
_LEAST = {"all": 0, "warnings and errors": 1, "errors": 2}


def event_panel(deployment: DeploymentView, snapshot: Snapshot, columns: int, rows: int) -> list[Line]:
    """Newest first, wrapped and never cut; what does not fit is counted in the title."""
    mine = [event for event in reversed(snapshot.events) if event.deployment in ("", deployment.name)]
    lines: list[Line] = []
    shown = 0
    for event in mine:
        text = event_lines(event, snapshot.time_ns, columns)
        if len(lines) + len(text) > rows - 1:
            break
        lines.extend(text)
        shown += 1
    hidden = f"{len(mine) - shown} older" if shown < len(mine) else ""
    lost = f"{whole(snapshot.lost)} telemetry messages lost" if snapshot.lost else ""
    right = line(", ".join(text for text in (hidden, lost) if text), "warn" if lost else "dim") if hidden or lost else BLANK
    body = lines or ([line(" nothing happened yet", "dim")] if not mine else [])
    return [rule(line("events", "title"), right, columns), *body][: max(0, rows)]


def event_lines(event: EventRecord, now_ns: int, columns: int) -> list[Line]:
    glyph, role = _SEVERITY.get(event.severity, _SEVERITY["info"])
    lead = f" {age((now_ns - event.time_ns) / 1e9):>6} "
    who = f"r{event.rank} " if event.rank is not None else ""
    room = columns - len(lead) - 3
    if room < 8:
        return [crop(line(f" {glyph} {who}{clean(event.text)}", role), columns)]
    wrapped = textwrap.wrap(who + clean(event.text), room) or [""]
    strong = "" if role == "dim" else role
    first: Line = (Span(lead, "dim"), Span(f"{glyph} ", role), Span(wrapped[0], strong))
    return [first, *(line(" " * (len(lead) + 2) + rest, strong) for rest in wrapped[1:])]


def matching(events: Sequence[EventRecord], deployment: str, severity: str, wanted: str) -> list[EventRecord]:
    """Newest first: of one deployment and of the daemon, or of all where it is ""; at least that severe; holding `wanted`."""
    least, wanted = _LEAST[severity], wanted.lower()
    grades = list(_SEVERITY)
    return [
        event
        for event in reversed(events)
        if (not deployment or event.deployment in ("", deployment))
        and (event.severity not in grades or grades.index(event.severity) >= least)
        and wanted in f"{event.severity} {event.kind} {event.deployment} r{event.rank} {event.text}".lower()
    ]


def event_list(events: Sequence[EventRecord], now_ns: int, whose: bool, columns: int) -> list[Line]:
    """All of them with kind and generation; `whose`: and deployment."""
    lines: list[Line] = []
    for event in events:
        first, *rest = event_lines(event, now_ns, columns)
        about = f"{event.deployment} " if whose and event.deployment else ""
        about += f"{event.kind}, generation {event.generation}" if event.generation else event.kind
        room = columns - sum(len(span.text) for span in first) - 2
        lines.append((*first, Span(f"  {clean(about)}", "dim")) if not rest and len(about) <= room else first)
        lines.extend(rest)
        if rest or len(about) > room:
            lines.append(crop(line(f"          {clean(about)}", "dim"), columns))
    return lines
