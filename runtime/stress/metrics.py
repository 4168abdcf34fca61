"""From samples to figures: pure functions. Seconds in, milliseconds out; each figure's formula is in `result.FORMULAS`."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from runtime.stress.goodput import Slo, good_count, wilson
from runtime.stress.result import FORMULAS, Generator, Goodput, Latency, Requests, Second
from runtime.stress.sample import INTERRUPTED, Sample
from telemetry.formulas import percentile

LAG_FLOOR_MS = 10.0  # of p99, that a timer on a busy machine may be late without anybody being wrong
LAG_SHARE = 0.1  # of the median TTFT, that lag may add to what it measures
CPU_LIMIT = 0.9  # of the generator's one core


def latencies(samples: Sequence[Sample]) -> dict[str, Latency]:
    """By name, over the samples that are ok; those without a value are left out."""
    fine = [sample for sample in samples if sample.ok]
    pools: dict[str, Sequence[float | None]] = {
        "ttft": [sample.ttft_s for sample in fine],
        "itl": [gap for sample in fine for gap in sample.gaps_s],
        "tpot": [sample.tpot_s for sample in fine],
        "e2e": [sample.e2e_s for sample in fine],
    }
    found = {name: _latency(name, [value * 1000 for value in pool if value is not None]) for name, pool in pools.items()}
    return {name: latency for name, latency in found.items() if latency is not None}


def _latency(name: str, values: list[float]) -> Latency | None:
    if not values:
        return None
    values.sort()
    at = {q: percentile(values, q) or 0.0 for q in (*range(0, 101, 5), 99)}
    quantiles = tuple(at[q] for q in range(0, 101, 5))
    return Latency(FORMULAS[name], len(values), sum(values) / len(values), at[50], at[90], at[99], quantiles)


def count_requests(samples: Sequence[Sample], warmup_s: float) -> Requests:
    measured = [sample for sample in samples if sample.intended >= warmup_s]
    fine = sum(sample.ok for sample in measured)
    cut = sum(sample.error == INTERRUPTED for sample in measured)
    short = sum(sample.ok and sample.output_tokens < sample.asked_tokens for sample in measured)
    total = len(measured)
    return Requests(len(samples), len(samples) - total, total, fine, total - fine - cut, cut, short)


def errors_by_kind(samples: Iterable[Sample]) -> dict[str, int]:
    """Most frequent first; what our user interrupted is none."""
    kinds = Counter(sample.error for sample in samples if sample.error not in (None, INTERRUPTED))
    return {str(kind): number for kind, number in kinds.most_common()}


def tokens_between(samples: Iterable[Sample], start: float, end: float) -> float:
    """Output tokens of whole answers whose events came in [start, end]; an answer's tokens are spread evenly over its events."""
    total = 0.0
    for sample in samples:
        if sample.ok and sample.events:
            inside = sum(start <= at <= end for at in sample.events)
            total += sample.output_tokens * inside / len(sample.events)
    return total


def goodput(samples: Sequence[Sample], slo: Slo | None, window_s: float) -> Goodput | None:
    """None without an SLO."""
    if slo is None:
        return None
    answered = [sample for sample in samples if sample.error != INTERRUPTED]
    good, total = good_count(answered, slo), len(answered)
    low, high = wilson(good, total) or (None, None)
    rate = good / window_s if window_s > 0 else 0.0
    return Goodput(dict(slo.limits), good, rate, good / total if total else None, low, high)


def judge_generator(samples: Sequence[Sample], cpu_share: float, late_s: Sequence[float] = ()) -> Generator:
    """`behind` when the p99 of lag, or of how late it woke, is above 10 ms and above a tenth of the median TTFT, or a core was
    nearly full."""
    lags = [sample.lag_s * 1000 for sample in samples]
    p50, p99 = percentile(lags, 50), percentile(lags, 99)
    late = percentile([1000 * each for each in late_s], 99)
    ttft = percentile([sample.ttft_s * 1000 for sample in samples if sample.ok and sample.ttft_s is not None], 50)
    reasons = reasons_behind(p99, late, ttft, cpu_share)
    return Generator(p50, p99, cpu_share, bool(reasons), "; ".join(reasons), late)


def reasons_behind(lag_p99: float | None, late_p99: float | None, ttft_p50: float | None, cpu_share: float) -> list[str]:
    """Why a load is not what it claims to be; empty when it is. In milliseconds."""
    limit = max(LAG_FLOOR_MS, LAG_SHARE * (ttft_p50 or 0.0))
    reasons = []
    if lag_p99 is not None and lag_p99 > limit:
        reasons.append(f"p99 of its lag is {lag_p99:.1f} ms, more than {limit:.1f} ms")
    if late_p99 is not None and late_p99 > limit:
        reasons.append(f"it saw answers up to {late_p99:.1f} ms late (p99), more than {limit:.1f} ms")
    if cpu_share > CPU_LIMIT:
        reasons.append(f"it used {100 * cpu_share:.0f} % of a core, more than {100 * CPU_LIMIT:.0f} %")
    return reasons


def timeline(samples: Sequence[Sample], end: float) -> tuple[Second, ...]:
    """Every second that began before `end`."""
    ends = sorted(sample.ended for sample in samples if sample.ended is not None)
    sends = sorted(sample.sent for sample in samples)
    tokens: dict[int, float] = defaultdict(float)
    for sample in samples:
        # an answer under way has no count of its tokens yet: an event is one at least
        weight = sample.output_tokens / len(sample.events) if sample.ok and sample.events else 1.0
        for at in sample.events:
            tokens[int(at)] += weight
    by_second: dict[int, list[Sample]] = {}
    for sample in samples:
        if sample.ended is not None:
            by_second.setdefault(int(sample.ended), []).append(sample)
    rows = []
    for second in range(int(end) + 1 if samples else 0):
        here = by_second.get(second, [])
        fine = [sample for sample in here if sample.ok]
        ttfts = [sample.ttft_s * 1000 for sample in fine if sample.ttft_s is not None]
        tpots = [sample.tpot_s * 1000 for sample in fine if sample.tpot_s is not None]
        sent = bisect_left(sends, second + 1)
        rows.append(
            Second(
                at_s=second,
                sent=sent - bisect_left(sends, second),
                done=len(fine),
                errors=sum(sample.error not in (None, INTERRUPTED) for sample in here),
                in_flight=sent - bisect_left(ends, second + 1),
                tokens=tokens[second],
                ttft_ms_p50=percentile(ttfts, 50),
                ttft_ms_p99=percentile(ttfts, 99),
                tpot_ms_p50=percentile(tpots, 50),
            )
        )
    return tuple(rows)
