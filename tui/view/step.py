"""One step of one rank in words: what it ran, where its time went, what it sent."""

from __future__ import annotations

from telemetry.records import StepRecord
from tui.view.bars import Share, gauge
from tui.view.figures import milliseconds, percent, size, whole
from tui.view.lanes import DECODE, MIXED, Lane, kind_of
from tui.view.line import BLANK, Line, Part, Span, keep, line, rule

_KINDS = {DECODE: "decode", MIXED: "prefill and decode"}


def step_lines(lane: Lane, record: StepRecord, units: str, columns: int) -> list[Line]:
    """A title and three lines."""
    title = (Span(f"step {record.step:,}", "title"), Span(f"  r{record.rank}  slot {record.slot}"))
    talk = sum(axis.wait_ns + axis.transfer_ns for axis in record.axes.values())
    wait = sum(axis.wait_ns for axis in record.axes.values())
    wall = max(1, record.wall_ns)
    what = keep(
        [
            Part(0, (Span(f" {_ms(record.wall_ns)} ms", "bold"), Span(f" {_KINDS.get(kind_of(record), 'prefill')}"))),
            Part(0, line(f"exposed communication {percent(100 * talk / wall)}")),
            Part(2, line(f"{whole(record.prefill_tokens)} prompt + {whole(record.decode_tokens)} decode tokens")),
            Part(3, line(f"{whole(record.sequences)} sequences")),
            Part(4, line(f"idle before {_ms(record.idle_ns)} ms") if record.idle_ns else BLANK),
        ],
        columns,
    )
    parts = keep(
        [
            Part(0, line(f" █ compute {_ms(record.compute_ns)}")),
            Part(0, line(f"▓ transfer {_ms(talk - wait)}")),
            Part(1, line(f"▒ wait {_ms(wait)}")),
            Part(2, line(f"· input {_ms(record.recv_wait_ns)}")),
            Part(3, line(f": host {_ms(record.gap_ns)}")),
        ],
        columns,
    )
    shares = [
        Share(record.compute_ns, "█", "weights"),
        Share(talk - wait, "▓", "kv"),
        Share(wait, "▒", "wait"),
        Share(record.recv_wait_ns, "·", "dim"),
        Share(record.gap_ns, ":", "dim"),
    ]
    room = min(50, columns - sum(len(span.text) for span in parts) - 2)
    bar = (Span("  "), *gauge(shares, record.wall_ns, room)) if room >= 10 else ()
    axes = keep([Part(i, line(_axis(name, record, units))) for i, name in enumerate(record.axes)], columns)
    return [rule(title, line(lane.title, "dim"), columns), what, (*parts, *bar), axes or line(" no communication", "dim")]


def _axis(name: str, record: StepRecord, units: str) -> str:
    axis = record.axes[name]
    calls = f"{whole(axis.calls)} call{'s' if axis.calls != 1 else ''}"
    return f" {name} {calls}, {size(axis.bytes, units)}, wait {_ms(axis.wait_ns)}, transfer {_ms(axis.transfer_ns)}"


def _ms(nanoseconds: int) -> str:
    return milliseconds(nanoseconds / 1e6)
