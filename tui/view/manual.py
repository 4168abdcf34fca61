"""The footer and the help page, both made from the key table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import lru_cache

from tui.keys import Key
from tui.view.line import BLANK, Line, Part, Span, keep, line, rule
from tui.view.ranks import FILTER_HELP

Glossary = tuple[tuple[str, str], ...]  # term, meaning

RANKS: Glossary = (
    ("util", "share of the window in which the rank was busy: compute and transfer, not waiting"),
    ("bubble", "share of the time a rank stood idle while its deployment had work; ! from 20% on"),
    ("all-reduce ms", "time in the tp collectives a step, waiting for the last rank included; ! when it is mostly waiting"),
    (
        "step ms",
        "median step; the bar: █ compute, ▓ transfer, ▒ wait for other ranks, · wait for the previous stage and host time",
    ),
    ("memory", "in use of what the rank may use; the bar: █ weights, ▓ KV, ▒ everything else, · free"),
)
ENGINE: Glossary = (
    ("KV", "the bar: █ blocks that requests hold, ▒ free blocks with a reusable prefix, · free"),
    ("TTFT, ITL", "time to first token, time between tokens; percentiles over the window that stands beside them"),
    ("filter", FILTER_HELP),
)
COMMON: Glossary = (
    ("-- and 0", "-- is not available, 0 is zero; stale values stay and their age is shown"),
    ("emulated", "several ranks share a device: the times say nothing about separate devices"),
    ("select", "drag with the mouse, then ctrl+c; with shift held the terminal selects itself"),
)


@lru_cache(maxsize=64)
def footer(keys: tuple[Key, ...], columns: int, paused: bool) -> Line:
    """The screens, then the keys that fit, most useful first. Each can be clicked."""
    labels = {"pause": "resume"} if paused else {}
    screens = [key for key in keys if key.screen]
    named = _all_named(screens, columns)
    parts = [Part(1, _screens(screens, named))] if screens else []
    parts += [
        Part(key.drop, _offer(key, labels.get(key.label, key.label))) for key in keys if key.drop is not None and not key.screen
    ]
    return (Span(" "), *keep(parts, max(0, columns - 1)))


def _all_named(screens: Sequence[Key], columns: int) -> bool:
    """Whether every screen's name stands beside its number: where half of the line is enough for that."""
    return sum(len(key.shown) + len(key.label) + 2 for key in screens) * 2 <= columns


def _screens(screens: Sequence[Key], named: bool) -> Line:
    """`1 [2 Rank] 3 4 5`."""
    spans: list[Span] = []
    for key in screens:
        spans.append(Span(" " if spans else ""))
        if key.here:
            spans.append(Span(f"[{key.shown} {key.label}]", "title"))
        else:
            spans.append(Span(key.shown, "key", key.action))
            spans.append(Span(f" {key.label}" if named else "", "dim", key.action))
    return tuple(spans)


def _offer(key: Key, label: str) -> Line:
    """One that is off is grey and in brackets; a click on it says why."""
    if key.off:
        return line(f"({key.shown} {label})", "dim", f"app.explain({key.off!r})")
    return Span(key.shown, "key", key.action), Span(f" {label}", "dim", key.action)


def help_lines(sections: Sequence[tuple[str, Sequence[Key]]], glossary: Glossary, columns: int) -> list[Line]:
    lines: list[Line] = []
    for title, keys in sections:
        lines.append(rule(line(title, "title"), BLANK, columns))
        for key in keys:
            meaning = (f"{key.label}: " if key.screen else "") + key.help + (f"; off: {key.off}" if key.off else "")
            lines.extend(_entry(key.shown, meaning, columns, 10, "dim" if key.off else "key"))
    lines.append(rule(line("what the figures mean", "title"), BLANK, columns))
    for term, meaning in glossary:
        lines.extend(_entry(term, meaning, columns, 16, "bold"))
    return lines


def _entry(term: str, meaning: str, columns: int, indent: int, role: str) -> list[Line]:
    """The meaning beside its term, below it where there is no room beside."""
    indent = indent if columns >= indent + 20 else 2
    wrapped = textwrap.wrap(meaning, max(1, columns - indent - 1))
    lead = Span(f" {term}".ljust(indent), role)
    if len(term) + 1 < indent:
        return [(lead, Span(wrapped[0])), *(line(" " * indent + text) for text in wrapped[1:])]
    return [(lead,), *(line(" " * indent + text) for text in wrapped)]
