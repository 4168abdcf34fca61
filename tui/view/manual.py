"""The footer and the help page, both made from the key table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tui.keys import Key
from tui.view.line import BLANK, Line, Part, Span, keep, line, rule
from tui.view.ranks import FILTER_HELP

_GLOSSARY = (
    ("util", "share of the window in which the rank was busy: compute and transfer, not waiting"),
    ("bubble", "share of the time a rank stood idle while its deployment had work; ! from 20% on"),
    ("all-reduce ms", "time in the tp collectives a step, waiting for the last rank included; ! when it is mostly waiting"),
    (
        "step ms",
        "median step; the bar: █ compute, ▓ transfer, ▒ wait for other ranks, · wait for the previous stage and host time",
    ),
    ("memory", "in use of what the rank may use; the bar: █ weights, ▓ KV, ▒ everything else, · free"),
    ("KV", "the bar: █ blocks that requests hold, ▒ free blocks with a reusable prefix, · free"),
    ("TTFT, ITL", "time to first token, time between tokens; percentiles over the window that stands beside them"),
    ("-- and 0", "-- is not available, 0 is zero; stale values stay and their age is shown"),
    ("emulated", "several ranks share a device: the times say nothing about separate devices"),
    ("filter", FILTER_HELP),
    ("copy", "drag with the mouse, then ctrl+c; with shift held the terminal selects itself"),
)


def footer(keys: Sequence[Key], columns: int, labels: dict[str, str]) -> Line:
    """The keys that fit, most useful first; `labels` renames some (pause, resume). Each can be clicked."""
    parts = [
        Part(key.drop, (Span(key.shown, "key", key.action), Span(f" {labels.get(key.label, key.label)}", "dim", key.action)))
        for key in keys
        if key.drop is not None
    ]
    return (Span(" "), *keep(parts, max(0, columns - 1)))


def help_lines(sections: Sequence[tuple[str, Sequence[Key]]], columns: int) -> list[Line]:
    lines: list[Line] = []
    for title, keys in sections:
        lines.append(rule(line(title, "title"), BLANK, columns))
        for key in keys:
            lines.extend(_entry(key.shown, key.help, columns, 10, "key"))
    lines.append(rule(line("what the figures mean", "title"), BLANK, columns))
    for term, meaning in _GLOSSARY:
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
