"""Runs by hand: deployments whose records are made, recorded and known, at any size."""

import random

import pytest

from profiles.provenance import Provenance
from profiles.recording import Policy, Recording
from telemetry.codec import encode_envelope
from telemetry.fold import Fold
from telemetry.records import (
    SCHEMA_VERSION,
    AxisTime,
    DeploymentRecord,
    DeviceRecord,
    EngineRecord,
    Envelope,
    EventRecord,
    RankInfo,
    RankMemory,
    RequestRecord,
    StepRecord,
)

S, MS = 1_000_000_000, 1_000_000
T = 5000 * S  # when a run begins
WALL = 1_800_000_000 * S


def provenance(name="demo", **fields):
    return Provenance(name, layout={"dp": 1, "pp": 1, "ep": 1, "tp": 2}, wall_ns=WALL, monotonic_ns=T, **fields)


def deployment(ranks, name="demo", state="READY", time_ns=T):
    infos = [RankInfo(r, 0, 0, 0, r, 100 + r, "cpu", 0, 3) for r in range(ranks)]
    layout = {"dp": 1, "pp": 1, "ep": 1, "tp": ranks}
    return DeploymentRecord(name, 1, time_ns, state, "/models/tiny", layout, "cpu", "float32", False, infos)


class Run:
    """Messages of one deployment in the order of their arrival; `slow` stretches every compute time."""

    def __init__(self, seconds=30, ranks=2, rate=10, slow=1.0, seed=1, name="demo"):
        self.rng = random.Random(seed)
        self.name, self.ranks, self.rate, self.slow, self.seconds = name, ranks, rate, slow, seconds
        self._seq = {}

    def envelope(self, sender, *records):
        seq = self._seq.get(sender, 0)
        self._seq[sender] = seq + 1
        return Envelope(SCHEMA_VERSION, self.name, sender, 1, seq, 0, list(records))

    def __iter__(self):
        """(arrived_ns, envelope)"""
        yield T, self.envelope("daemon", deployment(self.ranks, self.name))
        yield T, self.envelope("daemon", *(RankMemory(r, 1, 1 << 20, 1 << 18, None, 1 << 30, 1 << 29) for r in range(self.ranks)))
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
            axes = {"tp": AxisTime(8, 65536, jitter(5 * MS), 4 * MS + jitter(MS))}
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
                expert_tokens=[tick % 3, 2 + rank],
            )
            yield at + wall + jitter(2 * MS), self.envelope(f"rank:{rank}", step)

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
        return RequestRecord(self.name, 1, f"r{tick}", 0, arrived, arrived + MS, arrived + first, at, 7, 0, 21, "length")


@pytest.fixture(scope="session")
def run_file(tmp_path_factory):
    """Half a minute of two ranks, with a keyframe every other second."""
    path = tmp_path_factory.mktemp("profiles") / "run.mcap"
    Run().record(path, Policy(keyframe_s=2.0))
    return path
