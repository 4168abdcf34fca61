"""A load folded while it runs: an event costs the same however long the load lasts, so that looking at it does not hold it up."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Mapping

from runtime.stress.goodput import Slo
from runtime.stress.metrics import reasons_behind
from runtime.stress.progress import WINDOWS, Progress, Spread, Window
from runtime.stress.result import FaultDone, Second
from runtime.stress.sample import INTERRUPTED, Sample

HISTORY_S = 120
_WIDTH = math.log(1.01)  # of a bucket
_LEAST_MS = 1e-3

Buckets = Counter[int]


def bucket(milliseconds: float) -> int:
    return math.floor(math.log(max(_LEAST_MS, milliseconds)) / _WIDTH)


def bucket_percentile(buckets: Mapping[int, int], q: float) -> float | None:
    """The middle of the bucket that the q-th percentile (0 to 100) falls into, in milliseconds; `None` of nothing."""
    place = q / 100 * (sum(buckets.values()) - 1)
    seen = 0
    for key in sorted(buckets):
        seen += buckets[key]
        if buckets[key] and seen > place:
            return math.exp((key + 0.5) * _WIDTH)
    return None


class _Tally:
    """What happened in some time."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # sent, done, errors, good, judged, seconds
        self.tokens = 0
        self.times: defaultdict[str, Buckets] = defaultdict(Counter)

    def add(self, other: _Tally) -> None:
        self.counts.update(other.counts)
        self.tokens += other.tokens
        for name, buckets in other.times.items():
            self.times[name].update(buckets)

    def remove(self, other: _Tally) -> None:
        self.counts.subtract(other.counts)
        self.tokens -= other.tokens
        for name, buckets in other.times.items():
            mine = self.times[name]
            for key, count in buckets.items():
                mine[key] -= count
                if not mine[key]:
                    del mine[key]

    def spread(self, name: str) -> Spread | None:
        buckets = self.times.get(name)
        if not buckets:
            return None
        at = [bucket_percentile(buckets, q) or 0.0 for q in (50, 90, 99)]
        return Spread(sum(buckets.values()), *at)


class Live:
    """Times are seconds from the load's start, and do not go back."""

    def __init__(self, load: str, duration_s: float | None, slo: Slo | None) -> None:
        self._load, self._duration_s, self._slo = load, duration_s, slo
        self._now = _Tally()  # the second under way
        self._second = 0
        self._open = 0
        self._lately: deque[_Tally] = deque()  # whole seconds, as many as the longest window needs
        self._sums = {name: _Tally() for name in WINDOWS}  # over whole seconds
        self._history: deque[Second] = deque(maxlen=HISTORY_S)

    def sent(self, sample: Sample) -> None:
        self._roll(sample.sent)
        self._open += 1
        self._now.counts["sent"] += 1
        self._now.times["lag"][bucket(1000 * sample.lag_s)] += 1

    def woke(self, at: float, late_s: float) -> None:
        """A timer of the generator's event loop went off so late."""
        self._roll(at)
        self._now.times["late"][bucket(1000 * late_s)] += 1

    def token(self, at: float) -> None:
        """One event of an answer."""
        self._roll(at)
        self._now.tokens += 1

    def ended(self, sample: Sample) -> None:
        if sample.ended is None:
            return
        self._roll(sample.ended)
        self._open -= 1
        if sample.error == INTERRUPTED:
            return
        counts = self._now.counts
        counts["judged"] += 1
        counts["good"] += self._slo is not None and self._slo.met_by(sample)
        if not sample.ok:
            counts["errors"] += 1
            return
        counts["done"] += 1
        self._now.tokens += sample.output_tokens - len(sample.events)
        for name, seconds in (("ttft", sample.ttft_s), ("tpot", sample.tpot_s), ("e2e", sample.e2e_s)):
            if seconds is not None:
                self._now.times[name][bucket(1000 * seconds)] += 1
        gaps = self._now.times["itl"]
        for gap in sample.gaps_s:
            gaps[bucket(1000 * gap)] += 1

    def progress(self, now: float, cpu_share: float, faults: tuple[FaultDone, ...]) -> Progress:
        self._roll(now)
        windows = {name: self._window(name, now) for name in WINDOWS}
        whole = self._whole("run")
        ttft = whole.spread("ttft")
        lag_ms, late_ms = (spread.p99 if (spread := whole.spread(name)) is not None else None for name in ("lag", "late"))
        return Progress(
            load=self._load,
            elapsed_s=now,
            duration_s=self._duration_s,
            sent=whole.counts["sent"],
            done=whole.counts["done"],
            errors=whole.counts["errors"],
            in_flight=self._open,
            windows=windows,
            lag_ms_p99=lag_ms,
            late_ms_p99=late_ms,
            cpu_share=cpu_share,
            behind="; ".join(reasons_behind(lag_ms, late_ms, ttft.p50 if ttft else None, cpu_share)),
            faults=faults,
            history=tuple(self._history),
        )

    def _whole(self, name: str) -> _Tally:
        """A window with the second under way."""
        found = _Tally()
        found.add(self._sums[name])
        found.add(self._now)
        return found

    def _window(self, name: str, now: float) -> Window:
        tally = self._whole(name)
        seconds = max(1e-9, self._sums[name].counts["seconds"] + now - self._second)
        latency = {each: tally.spread(each) for each in ("ttft", "itl", "tpot", "e2e")}
        return Window(
            seconds=seconds,
            sent_per_s=tally.counts["sent"] / seconds,
            done_per_s=tally.counts["done"] / seconds,
            errors=tally.counts["errors"],
            output_tokens_per_s=tally.tokens / seconds,
            latency={each: spread for each, spread in latency.items() if spread is not None},
            good=tally.counts["good"] if self._slo is not None else None,
            judged=tally.counts["judged"],
        )

    def _roll(self, now: float) -> None:
        """Close the seconds before `now`."""
        while now >= self._second + 1:
            self._close()

    def _close(self) -> None:
        done = self._now
        done.counts["seconds"] = 1
        ttft, tpot = done.spread("ttft"), done.spread("tpot")
        self._history.append(
            Second(
                at_s=self._second,
                sent=done.counts["sent"],
                done=done.counts["done"],
                errors=done.counts["errors"],
                in_flight=self._open,
                tokens=float(done.tokens),
                ttft_ms_p50=ttft.p50 if ttft else None,
                ttft_ms_p99=ttft.p99 if ttft else None,
                tpot_ms_p50=tpot.p50 if tpot else None,
            )
        )
        self._lately.append(done)
        for name, length in WINDOWS.items():
            self._sums[name].add(done)
            if length is not None and len(self._lately) > length:
                self._sums[name].remove(self._lately[-1 - length])
        if len(self._lately) > max(length or 0 for length in WINDOWS.values()):
            self._lately.popleft()
        self._now = _Tally()
        self._second += 1
