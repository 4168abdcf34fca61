"""Recordings to choose from: one a line, and below what is known of the one under the cursor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

from profiles.listing import COMPLETE, CUT, RECORDING, Listed
from telemetry.snapshot import Snapshot
from tui.keys import Key, hint
from tui.view.columns import Column, fitting, row, titles
from tui.view.figures import UNAVAILABLE, age, size
from tui.view.frame import Frame
from tui.view.heading import layout_name
from tui.view.line import BLANK, Line, Span, clean, crop, line, rule, shortened
from tui.view.options import Feed, Options
from tui.view.screen import head_and_foot
from tui.view.transport import clock
from tui.view.verdict import Verdict
from tui.view.wrap import wrapped

_STATES = {COMPLETE: "", CUT: "warn", RECORDING: "bad"}
_DETAILS = 9  # rows


class Row(NamedTuple):
    """`origin`: "run", "sample", or "file" for one that was typed. `mark`: "A" or "B" of a comparison. `shown`: in replay."""

    listed: Listed
    origin: str
    mark: str = ""
    shown: bool = False


def profiles(
    rows: Sequence[Row],
    cursor: int,
    now_s: float,
    said: Verdict,
    snapshot: Snapshot | None,
    feed: Feed,
    options: Options,
    keys: Sequence[Key],
    columns: int,
    height: int,
) -> Frame:
    """The whole screen. `now_s`: unix time."""
    head, foot = head_and_foot(snapshot, feed, options, keys, columns, height, said)
    chosen = fitting(_columns(rows, now_s, options.units), columns)
    head += [rule(line("recordings", "title"), line(str(len(rows)), "dim"), columns), crop(titles(chosen, ""), columns)]
    body = [crop(row(chosen, each, marked=place == cursor), columns) for place, each in enumerate(rows)]
    ways = (hint(keys, "record", "{} records what is shown"), hint(keys, "type_path", "{} opens a file"))
    body = body or [line(f" none yet: {', '.join(filter(None, ways))}", "dim")]
    room = height - len(head) - len(foot) - len(body)
    panels = _details(rows[cursor].listed, columns)[: max(0, min(_DETAILS, max(room, height // 3)))] if rows else []
    focus = (cursor, cursor + 1) if rows else None
    return Frame(head, body, panels, foot, focus).cropped(columns, height)


def list_verdict(rows: Sequence[Row], keys: Sequence[Key]) -> Verdict:
    """What can be done with what is there."""
    marked = {each.mark: each.listed.path.name for each in rows if each.mark}
    if len(marked) == 2:
        return Verdict("info", hint(keys, "compare", f"{{}} compares A {marked['A']} with B {marked['B']}"))
    if marked:
        return Verdict("info", f"A is {marked['A']}", hint(keys, "mark", "{} on another one makes it B"))
    cut = sum(each.listed.state == CUT for each in rows)
    if cut:
        evidence = "what is whole in them is shown"
        return Verdict("warn", f"{cut} of {len(rows)} were not finished", evidence, "shardscope recover FILE")
    ways = (hint(keys, "open", "{} replays one"), hint(keys, "mark", "{} marks two to compare"))
    return Verdict("good", f"{len(rows)} recordings", ", ".join(filter(None, ways)))


def _columns(rows: Sequence[Row], now_s: float, units: str) -> list[Column[Row]]:
    longest = max((len(each.listed.path.name) for each in rows), default=0)
    layouts = max((len(_layout(each.listed)) for each in rows), default=0)
    models = max((len(_model(each.listed)) for each in rows), default=0)
    return [
        Column("", "", 1, 0, lambda r, w: line(r.mark or ("▶" if r.shown else ""), "accent"), "<"),
        Column("file", "", min(18, max(8, longest)), 0, _name, "<", min(44, longest)),
        Column("from", "", 6, 6, lambda r, w: line(r.origin, "dim"), "<"),
        Column("layout", "", max(6, layouts), 2, lambda r, w: line(_layout(r.listed)), "<"),
        Column("model", "", min(14, max(5, models)), 5, lambda r, w: line(shortened(_model(r.listed), w)), "<", min(32, models)),
        Column("length", "", 8, 1, lambda r, w: line(_length(r.listed))),
        Column("size", "", 5, 3, lambda r, w: line(size(r.listed.size, units))),
        Column("state", "", 9, 0, lambda r, w: line(r.listed.state, _STATES.get(r.listed.state, "bad")), "<"),
        Column("ago", "", 7, 4, lambda r, w: line(_ago(r.listed, now_s), "dim")),
    ]


def _name(each: Row, columns: int) -> Line:
    return line(shortened(each.listed.path.name, columns), "title" if each.shown else "bold")


def _layout(listed: Listed) -> str:
    known = listed.provenance
    return layout_name(known.layout).replace(" ", "") if known and known.layout else UNAVAILABLE


def _model(listed: Listed) -> str:
    return clean(PurePath(listed.provenance.model).name) if listed.provenance and listed.provenance.model else UNAVAILABLE


def _length(listed: Listed) -> str:
    return UNAVAILABLE if listed.seconds is None else clock(listed.seconds, tenths=False)


def _ago(listed: Listed, now_s: float) -> str:
    return UNAVAILABLE if listed.began_s is None else age(max(0.0, now_s - listed.began_s))


def _details(listed: Listed, columns: int) -> list[Line]:
    lines = [rule(line(clean(listed.path.name), "title"), BLANK, columns), *_fact("file", str(listed.path), columns)]
    if listed.problem:
        return [*lines, crop(line(f" × {clean(listed.problem)}", "bad"), columns)]
    known = listed.provenance
    if known is None:
        return [*lines, line(" ! where it comes from is lost", "warn")]
    settings = ", ".join(f"{name} {value}" for name, value in known.settings.items() if value not in (None, "", [], {}, False))
    devices = "".join(f", {device}" for device in known.devices)
    facts = {
        "run": f"'{known.deployment}' {layout_name(known.layout)}, {known.model}, {known.dtype} on {known.device}",
        "host": f"{known.host}, {known.cores} x {known.cpu}{devices}",
        "made by": f"shardscope {known.app} {known.commit}, torch {known.torch or UNAVAILABLE}",
        "settings": settings,
    }
    return [*lines, *(each for name, words in facts.items() for each in _fact(name, words, columns))]


def _fact(name: str, words: str, columns: int) -> list[Line]:
    rows = wrapped(clean(words), columns - 11, 3)
    return [crop((Span(f" {'' if i else name:<9}", "dim"), Span(row)), columns) for i, row in enumerate(rows)]
