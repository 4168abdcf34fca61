"""A line of the screen: spans of text, each with a role that the theme turns into a style.

Every character is one cell wide, so that widths are plain lengths; `clean` sees to it for text that is not ours.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from typing import NamedTuple

ROLES = ("", "dim", "bold", "title", "accent", "graph", "good", "warn", "bad", "weights", "kv", "other", "wait", "key")


class Span(NamedTuple):
    """`action`: what a click on it does, in Textual's action syntax."""

    text: str
    role: str = ""
    action: str = ""


_new = tuple.__new__  # what Span() comes to, in half the time: a frame has a thousand of them
Line = tuple[Span, ...]
BLANK: Line = ()


class Part(NamedTuple):
    """A piece of a line that may have to go: the highest `drop` goes first, 0 stays."""

    drop: int
    line: Line


def line(text: str, role: str = "", action: str = "") -> Line:
    return (_new(Span, (text, role, action)),)


def clean(text: str) -> str:
    """Text from outside (names, errors, events) with control and wide characters replaced."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(" " if c.isspace() else c if _one_cell(c) else "?" for c in text)


def _one_cell(character: str) -> bool:
    printable = unicodedata.category(character)[0] not in "CM"
    return printable and unicodedata.east_asian_width(character) not in "WF"


def shortened(name: str, columns: int) -> str:
    """A name of at most `columns` characters, with a sign that some are missing."""
    name = clean(name)
    return name if len(name) <= columns else name[: max(0, columns - 1)] + "…"


def width(spans: Iterable[Span]) -> int:
    cells = 0
    for span in spans:
        cells += len(span[0])
    return cells


def text(spans: Iterable[Span]) -> str:
    return "".join(span.text for span in spans)


def joined(lines: Iterable[Line]) -> Line:
    """Lines beside each other."""
    return tuple(chain.from_iterable(lines))


def merged(spans: Line) -> list[Span]:
    """The same to the eye in fewer spans: each costs a terminal some forty bytes. Blanks look alike in every role."""
    few: list[Span] = []
    words, role, action = "", "", ""
    for span in spans:
        text, of, does = span
        if does == action and (of == role or text.isspace()):
            words += text
        elif text:
            if words:
                few.append(Span(words, role, action))
            words, role, action = span
    return [*few, Span(words, role, action)] if words else few


def crop(spans: Line, columns: int) -> Line:
    """At most `columns` cells."""
    if width(spans) <= columns:
        return spans
    kept: list[Span] = []
    for span in spans:
        if columns <= 0:
            break
        kept.append(span._replace(text=span.text[:columns]))
        columns -= len(span.text)
    return tuple(kept)


def fit(spans: Line, columns: int, align: str = "<") -> Line:
    """Exactly `columns` cells, padded on the right (`<`) or the left (`>`)."""
    missing = columns - width(spans)
    if missing == 0:
        return spans
    if missing < 0:
        return crop(spans, max(0, columns))
    padding = blank(missing)
    return (padding, *spans) if align == ">" else (*spans, padding)


@cache
def blank(columns: int) -> Span:
    return Span(" " * columns)


def spread(left: Line, right: Line, columns: int, fill: Span = Span(" ")) -> Line:
    """`left` at the left edge, `right` at the right one, `fill` between; `left` gives way."""
    room = columns - width(right)
    left = crop(left, max(0, room))
    between = fill._replace(text=fill.text * (room - width(left)))
    return crop((*left, between, *right), columns)


def keep(parts: Sequence[Part], columns: int, gap: str = "  ") -> Line:
    """The parts in their order, less those that must be dropped to fit."""
    kept = [part for part in parts if part.line]
    surplus = sum(width(part.line) + len(gap) for part in kept) - len(gap) - columns
    while surplus > 0 and len(kept) > 1:
        last = max(range(len(kept)), key=lambda i: (kept[i].drop, i))
        if kept[last].drop == 0:
            break
        surplus -= width(kept.pop(last).line) + len(gap)
    spans: list[Span] = []
    for part in kept:
        if spans:
            spans.append(Span(gap))
        spans.extend(part.line)
    return crop(tuple(spans), columns)


def rule(left: Line, right: Line, columns: int) -> Line:
    """The title of a section, drawn as a horizontal rule: `── ranks ──────── 8 of 8 ──`."""
    lead, tail = Span("── ", "dim"), Span(" ──", "dim")
    head = (lead, *left, Span(" ")) if left else ()
    end = (Span(" "), *right, tail) if right else ()
    if width(head) + width(end) > columns:
        end = ()
    return spread(head, end, columns, Span("─", "dim"))
