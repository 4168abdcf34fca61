"""Latencies of a load as a table with the SLO's verdict, and its steps as rows: for a load that runs and for one that is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from runtime.stress.result import FORMULAS, Result
from tui.view.figures import UNAVAILABLE, milliseconds, percent, short
from tui.view.line import Line, Span, fit, line

NAMES = tuple(FORMULAS)  # ttft, itl, tpot, e2e
_CELL = 8
_STEPS = (("at once", 7), ("tok/s", 7), ("a client", 9), ("TTFT p50", 9), ("p99", 7), ("ITL p50", 8), ("p99", 7), ("errors", 7))
_GOOD = ("good", 6)


class Quantiles(Protocol):
    """Milliseconds."""

    @property
    def p50(self) -> float: ...
    @property
    def p90(self) -> float: ...
    @property
    def p99(self) -> float: ...


class Promise(NamedTuple):
    """What a limit makes of a latency: glyph and words, and their role."""

    text: str
    role: str


def promise(found: Quantiles | None, limit: float | None) -> Promise:
    """The lowest percentile that is over its limit; the limit itself where all is well."""
    if limit is None:
        return Promise("", "")
    if found is None:
        return Promise(f"<= {limit:g}", "dim")
    for name, value in (("p50", found.p50), ("p90", found.p90), ("p99", found.p99)):
        if value > limit:
            return Promise(f"<= {limit:g}  × over at {name}", "bad" if name == "p50" else "warn")
    return Promise(f"<= {limit:g}  ✓", "good")


def latency_table(latency: Mapping[str, Quantiles], slo: Mapping[str, float], columns: int) -> list[Line]:
    """Five lines: p50, p90, p99 of what was measured, `--` of what was not."""
    head = "".join(name.rjust(_CELL) for name in ("p50", "p90", "p99"))
    lines = [line(f" ms  {head}" + ("   SLO" if slo else ""), "dim")]
    for name in NAMES:
        found = latency.get(name)
        figures = (found.p50, found.p90, found.p99) if found is not None else (None, None, None)
        cells = [Span(f" {name.upper():<4}", "bold"), *(Span(milliseconds(value).rjust(_CELL)) for value in figures)]
        kept = promise(found, slo.get(name))
        lines.append((*cells, Span(f"   {kept.text}", kept.role)))
    return [fit(each, columns) for each in lines]


def good_line(good: int | None, judged: int) -> list[Line]:
    """The share of answers that met the whole SLO, errors among them; nothing without one."""
    if good is None:
        return []
    share = percent(100 * good / judged) if judged else UNAVAILABLE
    role = "good" if judged and good == judged else "warn" if judged else "dim"
    return [(Span(" goodput "), Span(share, role), Span(f" of {judged:,} met the SLO; errors did not", "dim"))]


def step_lines(steps: Sequence[Result], knee: int | None) -> list[Line]:
    """A row a step under its titles; `>` at the knee."""
    judged = any(step.goodput is not None for step in steps)
    titles = (*_STEPS, *((_GOOD,) if judged else ()))
    lines = [line("  " + "".join(name.rjust(width) for name, width in titles), "dim")]
    for step in steps:
        here = knee is not None and step.concurrency == knee
        cells = "".join(text.rjust(width) for text, (_, width) in zip(_cells(step), titles, strict=False))
        noted = (("knee", here), ("BEHIND", step.generator.behind), ("CUT", step.interrupted))
        notes = "  ".join(word for word, true in noted if true)
        lines.append((Span("> " if here else "  ", "accent"), Span(cells, "bold" if here else ""), Span(f"  {notes}", "warn")))
    return lines


def _cells(step: Result) -> tuple[str, ...]:
    ttft, itl = step.latency.get("ttft"), step.latency.get("itl")
    good = step.goodput.fraction if step.goodput is not None else None
    return (
        str(step.concurrency),
        short(step.output_tokens_per_s),
        short(step.interactivity),
        milliseconds(ttft.p50 if ttft else None),
        milliseconds(ttft.p99 if ttft else None),
        milliseconds(itl.p50 if itl else None),
        milliseconds(itl.p99 if itl else None),
        f"{step.requests.errors:,}",
        percent(100 * good if good is not None else None),
    )
