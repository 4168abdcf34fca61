"""Runs by hand: deployments whose records are made, recorded and known, at any size."""

import random

import pytest

from profiles.provenance import Provenance
from profiles.recording import Policy, Recording
from telemetry.codec import encode_envelope
from telemetry.fold import Fold
from telemetry.histograms import duration_bucket
from telemetry.records import (
    SCHEMA_VERSION,
    AxisTime,
    CollectiveRecord,
    DeploymentRecord,
    DeviceRecord,
    EngineRecord,
    Envelope,
    EventRecord,
    ExpertRecord,
    Peaks,
    Phase,
    RankInfo,
    RankMemory,
    RequestRecord,
    StepRecord,
)

S, MS = 1_000_000_000, 1_000_000
T = 10 * S  # when a run begins: in the past of any machine that has come up, for hubs refuse what is of the future
WALL = 1_800_000_000 * S


def provenance(name="demo", **fields):
    return Provenance(name, layout={"dp": 1, "pp": 1, "ep": 1, "tp": 2}, wall_ns=WALL, monotonic_ns=T, **fields)


def deployment(ranks, name="demo", state="READY", time_ns=T, axis="tp"):
    infos = [RankInfo(r, 0, 0, r * (axis == "ep"), r * (axis == "tp"), 100 + r, "cpu", 0, 3) for r in range(ranks)]
    layout = {"dp": 1, "pp": 1, "ep": 1, "tp": 1} | {axis: ranks}
    peaks = Peaks(1e12, 1e9, "measured here")
    return DeploymentRecord(name, 1, time_ns, state, "/models/tiny", layout, "cpu", "float32", False, infos, peaks=peaks)


class Run:
    """Messages of one deployment in the order of their arrival; `slow` stretches every compute time.

    `experts`: (layers, experts of each layer on each rank); rank 0's take twice what the others' take. None: a dense model.
    """

    def __init__(self, seconds=30, ranks=2, rate=10, slow=1.0, seed=1, name="demo", experts=None):
        self.rng = random.Random(seed)
        self.name, self.ranks, self.rate, self.slow, self.seconds = name, ranks, rate, slow, seconds
        self.experts = experts
        self.axis, self.op = ("ep", "all_to_all") if experts else ("tp", "all_reduce")
        self._seq = {}
        self._calls = 0

    def envelope(self, sender, *records):
        seq = self._seq.get(sender, 0)
        self._seq[sender] = seq + 1
        return Envelope(SCHEMA_VERSION, self.name, sender, 1, seq, 0, list(records))

    def __iter__(self):
        """(arrived_ns, envelope)"""
        yield T, self.envelope("daemon", deployment(self.ranks, self.name, axis=self.axis))
        yield T, self.envelope("engine:0", self._engine(T, 0, 0))
        tokens = 0.0
        for tick in range(self.seconds * self.rate):
            at = T + tick * S // self.rate
            yield from sorted(self._steps(tick, at), key=lambda message: message[0])
            tokens += 4 / self.slow
            if tick % 4 == 0:
                yield at + 80 * MS, self.envelope("engine:0", self._engine(at + 80 * MS, int(tokens), tick))
            if tick % 3 == 0:
                yield at + 81 * MS, self.envelope("engine:0", self._request(at + 80 * MS, tick))
            if tick % self.rate == 0:
                devices = [DeviceRecord(r, 1, at, cpu_percent=90.0, rss=(1 << 20) + tick) for r in range(self.ranks)]
                yield at + 82 * MS, self.envelope("daemon", *devices)
                for rank in range(self.ranks):
                    yield at + 82 * MS, self.envelope(f"rank:{rank}", *self._second(rank, at))
            if tick % (self.rate * 7) == 0:
                event = EventRecord(self.name, 1, at, "info", "operator", f"mark {tick}")
                yield at + 83 * MS, self.envelope("daemon", event)

    def record(self, path, policy=None, **fields):
        recording = Recording(path, provenance(self.name, **fields), Fold().keyframe(T), policy or Policy())
        for arrived, envelope in self:
            recording.add(arrived, envelope, encode_envelope(envelope))
            recording.tick(arrived)
        recording.finish()
        return recording

    def _steps(self, tick, at):
        jitter = self.rng.randrange
        for rank in range(self.ranks):
            axes = {self.axis: AxisTime(8, 65536, jitter(5 * MS), 4 * MS + jitter(MS))}
            compute = round((40 * MS + jitter(5 * MS)) * self.slow)
            inside = sum(a.wait_ns + a.transfer_ns for a in axes.values())
            wall = compute + 2 * MS + inside
            step = StepRecord(
                rank=rank,
                generation=1,
                step=tick,
                slot=0,
                start_ns=at,
                wall_ns=wall,
                idle_ns=max(0, 100 * MS - wall),
                gap_ns=2 * MS,
                recv_wait_ns=0,
                compute_ns=compute,
                axes=axes,
                prefill_tokens=tick % 5,
                decode_tokens=4,
                sequences=4,
                kv_blocks_used=10,
                kv_blocks_total=64,
                memory_bytes=(1 << 21) + tick,
                phases=[Phase("forward", MS, wall - 3 * MS), Phase("sample", wall - 2 * MS, MS)],
                flops=2 * 10**10,
                weight_bytes=18 * 10**6,
                kv_bytes=2 * 10**6,
            )
            yield at + wall + jitter(2 * MS), self.envelope(f"rank:{rank}", step)

    def _second(self, rank, at):
        """What a rank tells once a second, of the one before."""
        start = at - S
        yield RankMemory(
            rank,
            1,
            weights=1 << 20,
            kv=1 << 18,
            activations=1 << 16,
            total=1 << 30,
            free=1 << 29,
            workspace=1 << 15,
            other=1 << 19,
            used=(1 << 20) + (1 << 18) + (1 << 16) + (1 << 15) + (1 << 19),
            peak=1 << 21,
            time_ns=at,
        )
        calls = 8 * self.rate
        self._calls += calls
        for size_class in (13, 20):
            durations = {duration_bucket(round(400_000 * 1.1**i)): calls // 8 for i in range(8)}
            waits = {duration_bucket(0): calls // 2, duration_bucket(200_000 + self.rng.randrange(100_000)): calls // 2}
            size = calls << (size_class - 1)
            wait, transfer = 150_000 * calls, 400_000 * calls
            yield CollectiveRecord(
                rank,
                1,
                start,
                at,
                self.axis,
                self.op,
                size_class,
                self.ranks,
                self._calls,
                calls,
                size,
                wait,
                transfer,
                waits,
                durations,
            )
        if self.experts is not None:
            layers, experts = self.experts
            owned = [rank * experts + i for i in range(experts)]
            counts = [[(40 if rank else 80) + self.rng.randrange(5) for _ in owned] for _ in range(layers)]
            yield ExpertRecord(rank, 1, start, at, list(range(layers)), owned, counts)

    def _engine(self, at, tokens, tick):
        return EngineRecord(
            deployment=self.name,
            generation=1,
            replica=0,
            time_ns=at,
            running=4,
            waiting=tick % 2,
            kv_used=10,
            kv_cached=3,
            kv_total=64,
            prompt_tokens=tick * 5,
            generated_tokens=tokens,
            finished=tick // 3,
            aborted=0,
            preemptions=0,
            prefix_queries=tick,
            prefix_hits=tick // 2,
            steps=tick,
            in_flight=1,
        )

    def _request(self, at, tick):
        first = round((30 + self.rng.random() * 20) * MS * self.slow)
        rest = round((9 + self.rng.random()) * 20 * MS * self.slow)
        arrived = at - first - rest
        gaps = [rest // 20 + (-1) ** i * MS for i in range(20)]
        return RequestRecord(self.name, 1, f"r{tick}", 0, arrived, arrived + MS, arrived + first, at, 7, 0, 21, "length", gaps)


@pytest.fixture(scope="session")
def run_file(tmp_path_factory):
    """Half a minute of two ranks, with a keyframe every other second."""
    path = tmp_path_factory.mktemp("profiles") / "run.mcap"
    Run().record(path, Policy(keyframe_s=2.0))
    return path


@pytest.fixture(scope="session")
def moe_file(tmp_path_factory):
    """Half a minute of two ranks that share the experts of a mixture of experts."""
    path = tmp_path_factory.mktemp("profiles") / "moe.mcap"
    Run(experts=(2, 4)).record(path)
    return path
