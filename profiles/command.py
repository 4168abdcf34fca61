"""What the command line says about profiles: objects for `--json`, lines for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from profiles.chrome import export_chrome
from profiles.comparison import Change, Comparison
from profiles.measures import MEASURES, measure
from profiles.reader import Profile
from profiles.recovery import RecoveryReport
from profiles.tables import TABLES, export_tables

FORMATS = ("chrome", "csv", "parquet")


def summary_object(profile: Profile, progress: Callable[[float], None] | None = None) -> dict[str, Any]:
    """What `replay FILE --summary --json` prints. `progress` is told how much is read, 0 to 1."""
    return {"recording": recording_object(profile), **measure(profile, progress).summary()}


def recording_object(profile: Profile) -> dict[str, Any]:
    """Where a recording comes from. `damaged`: chunks that were met so far and could not be read. `attached`: JSON documents that
    were put into it, as what the clients of a stress run saw."""
    known = msgspec.to_builtins(profile.provenance) if profile.provenance is not None else None
    return {
        "file": str(profile.path),
        "bytes": profile.size,
        "seconds": profile.seconds,
        "complete": profile.complete,
        "damaged": profile.damaged,
        "provenance": known,
        "attached": dict(_attached(profile)),
    }


def _attached(profile: Profile) -> Iterator[tuple[str, Any]]:
    """What else was put into it, by name; without what is no JSON."""
    for name, data in profile.attachments().items():
        with suppress(ValueError):
            yield name, json.loads(data)


def summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    known = summary["recording"]["provenance"]
    if known is not None:
        layout = " ".join(f"{axis} {degree}" for axis, degree in known["layout"].items())
        yield f"'{known['deployment']}'  {known['model']}  {layout}  {known['dtype']} on {known['device']}, {known['host']}"
    yield (
        f"{summary['seconds']:.1f} s, {summary['busy_seconds']} s with work: {summary['requests']} requests, "
        f"{summary['prompt_tokens']} prompt and {summary['output_tokens']} output tokens"
    )
    if not summary["recording"]["complete"]:
        yield "the recording has no end: `shardscope recover` gives it one"
    if summary["recording"]["attached"]:
        yield f"with {', '.join(summary['recording']['attached'])}: see --json"
    if summary["lost"]:
        yield f"{summary['lost']} telemetry messages were lost"
    for key, figure in summary["measures"].items():
        yield f"{MEASURES[key].name:<12} {_figure(figure['value']):>10} {figure['unit']:<6} {figure['formula']}"


def comparison_object(comparison: Comparison, beyond: float | None) -> dict[str, Any]:
    """What `compare A B --json` prints. Deltas and intervals are shares of A's value, or points where `points` says so."""
    regressions = comparison.regressions(beyond) if beyond is not None else []
    return {
        **msgspec.to_builtins(comparison),
        "fail_on": beyond,
        "regressions": [change.measure for change in regressions],
    }


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """The same for people: differences of the runs first, then doubts, then a line a measure."""
    yield f"A  {comparison.a}"
    yield f"B  {comparison.b}"
    for difference in comparison.differences:
        yield f"   {difference.field}: {_said(difference.a)} -> {_said(difference.b)}"
    if not comparison.differences:
        yield "   made in the same way, as far as the recordings say"
    for warning in comparison.warnings:
        yield f"!  {warning}"
    yield f"{'':<12} {'A':>10} {'B':>10} {'':<6} {'change':>9}   {'95 % interval':<20}"
    for change in comparison.changes:
        yield _change_line(change)


def recovery_lines(report: RecoveryReport, target: Path) -> Iterator[str]:
    """What a rescue found."""
    if not report.chunks:
        yield "nothing in it is whole: nothing is written"
        return
    of = f" of {report.expected}" if report.expected is not None else ""
    yield f"{report.chunks}{of} chunks are whole: {report.messages} messages over {report.seconds:.1f} s are in {target}"
    if report.unreadable:
        yield f"{report.unreadable} messages in them could not be read and are left out"
    if not report.provenance:
        yield "where the recording comes from is lost"


def export(profile: Profile, form: str, out: Path, table: str | None) -> list[Path]:
    """Write `out` in one of `FORMATS`; a table's file, or without a suffix a directory of all. Raises OSError, MissingPackage and
    ValueError for what is no format or table."""
    if form not in FORMATS:
        raise ValueError(f"'{form}' is no format: {', '.join(FORMATS)}")
    if table is not None and table not in TABLES:
        raise ValueError(f"'{table}' is no table: {', '.join(TABLES)}")
    if form == "chrome":
        export_chrome(profile, out)
        return [out]
    return export_tables(profile, form, out, table or ("steps" if out.suffix else None))


def share(text: str) -> float:
    """`5%` or `0.05`. Raises ValueError."""
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError(f"'{text}' is no share: write 5%")
    return number


def _change_line(change: Change) -> str:
    line = f"{change.measure:<12} {_figure(change.a):>10} {_figure(change.b):>10} {change.unit:<6}"
    if change.delta is None or change.low is None or change.high is None:
        return f"{line} {'':>9}   too few samples to say"
    factor, unit = (1.0, "points") if change.points else (100.0, "%")
    interval = f"{factor * change.low:+.1f} .. {factor * change.high:+.1f} {unit}"
    verdict = change.verdict.upper() if change.verdict == "worse" else change.verdict
    return f"{line} {factor * change.delta:>+8.1f}{'%' if unit == '%' else ' '}   {interval:<24} {verdict}"


def _figure(value: float | None) -> str:
    return "--" if value is None else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _said(value: Any) -> str:
    return "(not said)" if value in (None, "", []) else str(value)
