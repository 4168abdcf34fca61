"""The head of every screen: who it is and in what state, other deployments, the verdict."""

from __future__ import annotations

import re
import textwrap
from pathlib import PurePath

from telemetry.snapshot import DeploymentView, Snapshot
from tui.view.figures import age, milliseconds, short, size, whole
from tui.view.line import BLANK, Line, Part, Span, clean, crop, keep, line, shortened, spread, width
from tui.view.options import OFTENEST_S, Feed, Options, chosen
from tui.view.verdict import Verdict

_STATES = {  # glyph, role
    "READY": ("●", "good"),
    "STARTING": ("◌", "warn"),
    "RESTARTING": ("◌", "warn"),
    "RECONFIGURING": ("◐", "warn"),
    "DRAINING": ("○", "warn"),
    "FAILED": ("×", "bad"),
    "DEAD": ("×", "bad"),  # this and the next two are a rank's own
    "STALLED": ("!", "warn"),
    "SUSPENDED": ("!", "warn"),
    "STOPPED": ("■", "dim"),
}
_LEVELS = {"good": ("✓", "good"), "info": ("·", "accent"), "warn": ("!", "warn"), "bad": ("×", "bad")}
_VERDICT_LINES = 3
_MARGINS = 4  # of line 1: left, right, and between its two halves
_CUT = " ..."
_GLUE = "\xa0"  # a space at which no line is broken


def state(name: str) -> Span:
    """A state is a glyph and a word; colour only helps."""
    glyph, role = _STATES.get(name, ("?", "dim"))
    return Span(f"{glyph} {clean(name)}", role)


def identity(snapshot: Snapshot | None, feed: Feed, options: Options, columns: int) -> Line:
    """Line 1."""
    deployment = chosen(snapshot, options)
    facts = _facts(deployment, columns // 3) if deployment else [Part(0, line("shardscope", "title"))]
    if feed.recorded is not None:
        facts.insert(-3, Part(0, line(f"● REC {size(feed.recorded, options.units)}", "bad")))
    shortest = width(keep([part for part in facts if part.drop == 0], columns))
    right = _provenance(feed, options.every_s, brief=False)
    if shortest + width(right) + _MARGINS > columns:
        right = _provenance(feed, options.every_s, brief=True)
    left = keep(facts, columns - width(right) - _MARGINS)
    return spread((Span(" "), *left), (*right, Span(" ")), columns)


def _facts(deployment: DeploymentView, longest: int) -> list[Part]:
    engine = deployment.engine
    model = shortened(PurePath(deployment.model).name, longest)
    restarts = deployment.generation - 1
    return [
        Part(0, line(shortened(deployment.name, longest), "title")),
        Part(7, line(model) if model != shortened(deployment.name, longest) else BLANK),
        Part(8, line(clean(deployment.dtype))),
        Part(3, line(layout_name(deployment.layout))),
        Part(5, line(f"{len(deployment.ranks)} x {clean(deployment.device)}") if deployment.ranks else BLANK),
        Part(0, line("EMULATED", "warn") if deployment.emulated else BLANK),
        Part(0, (state(deployment.state),)),
        Part(2, line(f"relaunched {restarts}x", "warn") if restarts > 0 else BLANK),
        Part(4, line(f"{short(engine.tokens_per_s)} tok/s", "bold")),
        Part(9, line(f"TTFT p99 {milliseconds(engine.ttft_ms_p99)} ms")),
        Part(10, line(f"ITL p50 {milliseconds(engine.itl_ms_p50)} ms")),
    ]


def _provenance(feed: Feed, every_s: float, brief: bool) -> Line:
    """Which source, how seldom it is drawn, how old what it shows is; the brief form says what is unusual, else the source."""
    name = clean(feed.source)
    if feed.replay:
        return line(name, "accent")
    unusual = ""
    if feed.paused_s is not None:
        unusual = f"PAUSED {age(feed.paused_s)}"
    elif feed.stale:
        unusual = f"STALE {age(feed.age_s)}"
    seldom = f"every {every_s:g} s" if every_s > OFTENEST_S and feed.paused_s is None else ""
    if brief:
        return line(unusual, "warn") if unusual else line(seldom or name, "dim")
    facts = [Span(f"{words}  ", "dim") for words in ("read-only" if feed.readonly else "", seldom) if words]
    return (*facts, Span(f"{name} {unusual}", "warn") if unusual else Span(f"{name} {age(feed.age_s)}", "dim"))


def layout_name(layout: dict[str, int]) -> str:
    """`tp2 pp2`: the degrees above one."""
    return " ".join(f"{axis}{layout[axis]}" for axis in ("tp", "pp", "ep", "dp") if layout.get(axis, 1) > 1) or "tp1"


def tabs(snapshot: Snapshot | None, options: Options, key: str, columns: int) -> list[Line]:
    """A line to choose among several deployments, by a `key`; none for one."""
    if snapshot is None or len(snapshot.deployments) < 2:
        return []
    current = chosen(snapshot, options)
    parts = [Part(0, line(key, "key", "screen.next_deployment(1)"))]
    for i, deployment in enumerate(snapshot.deployments):
        here = deployment is current
        mark = Span("> " if here else "  ", "accent")
        name = Span(shortened(deployment.name, columns // 3), "title" if here else "", f"screen.choose({i})")
        figures = Span(f" {whole(deployment.engine.tokens_per_s)} tok/s", "dim")
        glyph = state(deployment.state)
        parts.append(Part(0 if here else i + 1, (mark, glyph._replace(text=glyph.text[0] + " "), name, figures)))
    return [crop((Span(" "), *keep(parts, columns - 1)), columns)]


def verdict_lines(found: Verdict, columns: int, limit: int = _VERDICT_LINES, take: str = "") -> list[Line]:
    """One line if evidence and remedy fit, else as many as they need up to `limit`; what matters least goes first.

    `take`: the key, and the place to click, that takes a remedy to the deploy screen; empty where nothing can.
    """
    take = f" [{take}]" if take and found.fields else ""
    glyph, role = _LEVELS[found.level]
    mark = Span(f" {glyph} ", role)
    room = max(1, columns - len(mark.text) - 1)
    cause = clean(found.cause)
    pieces = [
        cause,
        clean(f": {found.evidence}") if found.evidence else "",
        clean(f". Try: {found.remedy}") + take.replace(" ", _GLUE) if found.remedy else "",
    ]
    wrapped = _wrapped(pieces, room, limit)
    while len(pieces) > 1 and wrapped[-1].endswith(_CUT):
        pieces.pop()
        wrapped = _wrapped(pieces, room, limit)
    emphasis = "bold" if role == "good" else role
    lines: list[Line] = []
    said = len(cause)
    for i, part in enumerate(wrapped):
        strong, rest = part[:said], part[said:]
        said = max(0, said - len(part) - 1)
        lead = mark if i == 0 else Span("   ")
        taken = (Span(take, "key", "app.deploy"),) if take and i == len(wrapped) - 1 and rest.endswith(take) else ()
        lines.append(crop((lead, Span(strong, emphasis), Span(rest.removesuffix(take) if taken else rest), *taken), columns))
    return lines


def _wrapped(pieces: list[str], columns: int, limit: int) -> list[str]:
    """A number is not parted from its unit."""
    whole_figures = re.sub(r"(\d) (?=(?:s|ms|min|h)\b)", rf"\1{_GLUE}", "".join(pieces))
    placeholder = _CUT if columns > len(_CUT) else ""
    return [
        part.replace(_GLUE, " ") for part in textwrap.wrap(whole_figures, columns, max_lines=limit, placeholder=placeholder)
    ] or [""]
