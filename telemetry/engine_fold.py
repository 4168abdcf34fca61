"""The fold of one deployment's engines: queues, rates from counters, latencies of requests."""

from __future__ import annotations

from collections import Counter, deque
from itertools import dropwhile

from msgspec import Struct

from telemetry.formulas import percentile
from telemetry.histograms import Histograms, HistogramState, time_per_output_token_s, time_to_first_token_s
from telemetry.records import EngineRecord, RequestRecord
from telemetry.series import Seconds, SecondsState, WorkTimeline
from telemetry.snapshot import EngineView

COUNTERS = (
    "prompt_tokens",
    "generated_tokens",
    "finished",
    "aborted",
    "preemptions",
    "prefix_queries",
    "prefix_hits",
    "steps",
)
RATED = ("prompt_tokens", "generated_tokens", "prefix_queries", "prefix_hits")
SAMPLED = ("busy_records", "in_flight")  # records of replicas with work, the micro-batches that they had in flight
COLUMNS = (*RATED, *SAMPLED, "preemptions")
MAX_REQUESTS = 4096  # finished requests remembered for percentiles
MAX_REASONS = 16
MAX_NAME = 64  # characters of a reason


class EngineState(Struct, frozen=True, array_like=True):
    """All that an `EngineFold` can still show."""

    records: dict[int, EngineRecord]
    work: dict[int, list[tuple[int, bool]]]
    counters: dict[str, int]
    seconds: SecondsState
    requests: list[tuple[int, float | None, float | None]]
    reasons: dict[str, int]
    histograms: dict[str, HistogramState]


class EngineFold:
    """All replicas of one deployment."""

    def __init__(self) -> None:
        self._replicas = 1
        self.records: dict[int, EngineRecord] = {}  # the last one by replica
        self._work: dict[int, WorkTimeline] = {}
        self._counters: Counter[str] = Counter()
        self._seconds = Seconds(shown=RATED.index("generated_tokens"))  # columns: COLUMNS
        self._requests: deque[tuple[int, float | None, float | None]] = deque(maxlen=MAX_REQUESTS)  # finished_ns, TTFT, ITL (s)
        self._reasons: Counter[str] = Counter()
        self._histograms = Histograms()

    def work(self, replica: int) -> WorkTimeline:
        """When that replica had running requests."""
        work = self._work.get(replica)
        if work is None:
            work = self._work[replica] = WorkTimeline()
        return work

    def keep_replicas(self, count: int) -> None:
        """Expect so many replicas; forget those that a new layout no longer has."""
        self._replicas = count
        for replica in [r for r in self.records if r >= count]:
            del self.records[replica]
            self._work.pop(replica, None)

    def add_engine(self, record: EngineRecord) -> None:
        """Take a replica's state. Its first record says where its counters stand, not that they moved."""
        if not 0 <= record.replica < self._replicas:
            return
        last = self.records.get(record.replica)
        self.records[record.replica] = record
        self.work(record.replica).note(record.time_ns, record.running > 0)
        grown = {name: _growth(name, last, record) for name in COUNTERS}
        self._counters.update(grown)
        since = record.time_ns if last is None else last.time_ns
        amounts = {name: 0 if last is None else grown[name] for name in (*RATED, "preemptions")}
        amounts |= zip(SAMPLED, (1, record.in_flight) if record.running else (0, 0), strict=True)
        self._seconds.spread(since, record.time_ns, [amounts[name] for name in COLUMNS])

    def add_request(self, record: RequestRecord) -> None:
        """Take a finished request."""
        self._requests.append((record.finished_ns, time_to_first_token_s(record), time_per_output_token_s(record)))
        reason = record.finish_reason[:MAX_NAME]
        self._reasons[reason if reason in self._reasons or len(self._reasons) < MAX_REASONS else "other"] += 1
        self._histograms.observe(record)

    def no_demand_pct(self, now_ns: int, window_ns: int) -> float | None:
        """Share of the window in which replicas had nothing to do, of the time of which that is known."""
        idle = known = 0
        for replica in self.records:
            for begin, until, had_work in self.work(replica).pieces(now_ns - window_ns, now_ns):
                known += until - begin
                idle += 0 if had_work else until - begin
        return 100 * idle / known if known else None

    def view(self, now_ns: int, window_ns: int) -> EngineView:
        """The state at `now_ns`, rates and percentiles over the window before it."""
        records = self.records.values()
        total = dict(zip(COLUMNS, self._seconds.total(now_ns, window_ns), strict=False))
        span = self._seconds.span_s(now_ns, window_ns)
        recent = [r for r in self._requests if now_ns - window_ns < r[0] <= now_ns]
        ttft = [1e3 * ttft for _, ttft, _ in recent if ttft is not None]
        itl = [1e3 * itl for _, _, itl in recent if itl is not None]
        queries, samples = total.get("prefix_queries", 0.0), total.get("busy_records", 0.0)
        return EngineView(
            running=sum(r.running for r in records),
            waiting=sum(r.waiting for r in records),
            kv_used=sum(r.kv_used for r in records),
            kv_cached=sum(r.kv_cached for r in records),
            kv_total=sum(r.kv_total for r in records),
            in_flight=sum(r.in_flight for r in records),
            micro_batches=total.get("in_flight", 0.0) / samples if samples > 0 else None,
            preempted=total.get("preemptions", 0.0),
            tokens_per_s=total.get("generated_tokens", 0.0) / span,
            prompt_tokens_per_s=total.get("prompt_tokens", 0.0) / span,
            tokens_history=self._seconds.history(now_ns),
            prefix_hit_rate=total.get("prefix_hits", 0.0) / queries if queries > 0 else None,
            ttft_ms_p50=percentile(ttft, 50),
            ttft_ms_p99=percentile(ttft, 99),
            itl_ms_p50=percentile(itl, 50),
            itl_ms_p99=percentile(itl, 99),
            finished_by_reason=dict(self._reasons),
            histograms=self._histograms.view(),
            **{name: self._counters[name] for name in COUNTERS},
        )

    def state(self, now_ns: int, window_ns: int) -> EngineState:
        """All that views from `now` on can show of what came so far."""
        return EngineState(
            records=dict(self.records),
            work={replica: work.state() for replica, work in self._work.items()},
            counters=dict(self._counters),
            seconds=self._seconds.state(now_ns, window_ns),
            requests=list(dropwhile(lambda request: request[0] <= now_ns - window_ns, self._requests)),
            reasons=dict(self._reasons),
            histograms=self._histograms.state(),
        )

    def restore(self, state: EngineState) -> None:
        """Become what `state` was taken of. Raises ValueError when it can be of no engine."""
        for replica, turns in state.work.items():
            self.work(replica).restore(turns)
        self.records.update(state.records)
        self._counters.update({name: state.counters.get(name, 0) for name in COUNTERS})
        self._seconds.restore(state.seconds)
        self._requests.extend(state.requests)
        self._reasons.update(state.reasons)
        self._histograms.restore(state.histograms)


def _growth(name: str, last: EngineRecord | None, record: EngineRecord) -> int:
    """By how much a counter grew; one that fell began again at 0, so all of it is growth (Prometheus' rule)."""
    value: int = getattr(record, name)
    before: int = getattr(last, name) if last is not None else 0
    return value - before if value >= before else value
