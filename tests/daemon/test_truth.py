"""Truth by injection: what is done to a real deployment, and how much of it, is what records, snapshot and findings say.

Tolerance: a tenth of what was injected. The amounts are large against what a machine with other work adds by itself, and of what
comes step by step medians are judged.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file
from served import Served
from under_load import pids

from profiles.container import KEYFRAMES
from profiles.reader import Profile
from runtime.checkpoint.synthetic import write_checkpoint
from runtime.rank.board import Board
from runtime.rank.faults import Fault
from telemetry.codec import decode_envelope
from telemetry.diagnosis import Finding, diagnose
from telemetry.histograms import duration_bounds
from telemetry.records import CollectiveRecord, EventRecord, ExpertRecord, Record, StepRecord
from telemetry.snapshot import DeploymentView

SLOW_S = 0.4
LATE_S = 2.0
STOPPED_S = 3.0
WINDOW_S = 10.0

pytestmark = pytest.mark.timeout(300)


@contextmanager
def deployed(daemon: Served, path: Path, **layout: int) -> Iterator[None]:
    daemon.deploy(path, **{"tp": 1, **layout, "dtype": "float32"})
    try:
        yield
    finally:
        daemon.client.stop("t", now=True)


@contextmanager
def recorded(daemon: Served) -> Iterator[list[Record]]:
    """What the deployment tells meanwhile; filled at the end."""
    records: list[Record] = []
    with TemporaryDirectory() as directory:
        path = Path(directory) / "told.mcap"
        list(daemon.client.record("t", path, wait=False))
        yield records
        daemon.client.stop_recording("t")
        records += told(path)


def told(path: Path) -> Iterator[Record]:
    with Profile(path) as profile:
        for entry in profile.entries():
            if entry.topic != KEYFRAMES:
                yield from decode_envelope(entry.data).records


def inject(daemon: Served, rank: int, fault: Fault, seconds: float) -> None:
    """Onto the board that the ranks inherited."""
    fds = Path(f"/proc/{pids(daemon)[rank]}/fd")
    found = next(fd for fd in fds.iterdir() if "shardscope-board" in os.readlink(fd))
    board = os.open(found, os.O_RDWR)
    try:
        status = Board(board, len(pids(daemon))).ranks[rank]
        status.fault_arg, status.fault = round(seconds * 1e6), fault
    finally:
        os.close(board)


def tokens_of(seen: DeploymentView) -> int:
    """That the experts of a layer took in the window."""
    return sum(seen.experts.tokens[0]) if seen.experts and seen.experts.tokens else 0


def view(daemon: Served) -> DeploymentView:
    return next(each for each in daemon.client.snapshot().deployments if each.name == "t")


def steps_of(records: list[Record], rank: int) -> list[StepRecord]:
    return [record for record in records if isinstance(record, StepRecord) and record.rank == rank]


def forward_ns(step: StepRecord) -> int:
    return sum(phase.duration_ns for phase in step.phases if phase.name == "forward")


def about(injected: float) -> object:
    return pytest.approx(injected, rel=0.1)


def finding(seen: DeploymentView, kind: str) -> Finding:
    found = diagnose(seen, WINDOW_S)
    chosen = next((each for each in found if each.kind == kind), None)
    assert chosen, f"no {kind} among {found}"
    return chosen


def test_a_rank_that_is_slow_in_its_forward(daemon: Served, make_checkpoint: Callable[..., Path]) -> None:
    with deployed(daemon, make_checkpoint("llama"), tp=2), recorded(daemon) as records, daemon.stream(400) as events:
        for _ in range(20):
            next(events)
        inject(daemon, 1, Fault.SLOW_FORWARD, SLOW_S)
        slowed = time.perf_counter_ns()
        next(events)  # a step that was under way
        for _ in range(32):  # more than a window, and so many seconds that it is no chance who was last in each of them
            next(events)
        seen = view(daemon)
    fast, slow = ([step for step in steps_of(records, rank) if step.start_ns > slowed] for rank in (0, 1))
    pairs = list(zip(fast, slow, strict=False))
    longer = median(b.compute_ns - a.compute_ns for a, b in pairs)
    forward = median(forward_ns(b) - forward_ns(a) for a, b in pairs)
    waited = median(a.axes["tp"].wait_ns - b.axes["tp"].wait_ns for a, b in pairs)
    assert longer / 1e9 == about(SLOW_S)
    assert waited / 1e9 == about(SLOW_S)
    assert abs(forward) / 1e9 < 0.1 * SLOW_S, "who waits inside its forward is in it as long"
    quick, late = seen.ranks
    assert late.axes["tp"].late_ms == about(1e3 * SLOW_S)
    assert (quick.axes["tp"].late_ms or 0.0) < 1e2 * SLOW_S
    share = 1e5 * SLOW_S / (late.step_ms or 0.0)  # percent of a step
    assert quick.split is not None
    assert late.split is not None
    assert quick.split.wait == about(share)
    assert late.split.compute == about(share)
    most = max(seen.collectives, key=lambda each: each.calls_per_s)
    assert (most.op, most.straggler) == ("all_reduce", 1)
    blamed = finding(seen, "straggler")
    assert blamed.ranks == (1,)
    assert blamed.share_pct == about(share)


def test_one_collective_that_a_rank_comes_late_to(daemon: Served, make_checkpoint: Callable[..., Path]) -> None:
    with deployed(daemon, make_checkpoint("llama"), tp=2), recorded(daemon) as records:
        daemon.complete(4)
        inject(daemon, 1, Fault.LATE, LATE_S)
        daemon.complete(4)
        snapshot = daemon.client.snapshot()
    seen, since_ns = snapshot.deployments[0], snapshot.time_ns - round(WINDOW_S * 1e9)
    long = [
        (record.rank, record.op, bounds, count)
        for record in records
        if isinstance(record, CollectiveRecord)
        for bucket, count in record.waits.items()
        if (bounds := duration_bounds(bucket))[0] > LATE_S * 0.5e9
    ]
    ((rank, op, bounds, count),) = long
    assert (rank, op, count) == (0, "all_reduce", 1)
    assert bounds[0] / 1e9 <= LATE_S * 1.1
    assert bounds[1] / 1e9 >= LATE_S
    waited = max(step.axes["tp"].wait_ns for step in steps_of(records, 0))
    assert waited / 1e9 == about(LATE_S)
    told = min(rank.steps for rank in seen.ranks)
    joined = sum(step.start_ns + step.wall_ns > since_ns for step in steps_of(records, 1)[:told])
    late = [rank.axes["tp"].late_ms or 0.0 for rank in seen.ranks]
    assert (late[1] - late[0]) / 1e3 * joined == about(LATE_S)


def test_a_stage_that_is_stopped(daemon: Served, make_checkpoint: Callable[..., Path]) -> None:
    with deployed(daemon, make_checkpoint("llama"), pp=2), recorded(daemon) as records, daemon.stream(400) as events:
        victim = pids(daemon)[0]
        for _ in range(20):
            next(events)
        stopped = time.monotonic()
        os.kill(victim, signal.SIGSTOP)
        time.sleep(STOPPED_S - 0.5)
        snapshot = daemon.client.snapshot()
        during, looked = snapshot.deployments[0], snapshot.time_ns / 1e9
        time.sleep(max(0.0, stopped + STOPPED_S - time.monotonic()))
        os.kill(victim, signal.SIGCONT)
        length = time.monotonic() - stopped
        for _ in range(20):
            next(events)
        seen = view(daemon)
    [named] = diagnose(during, WINDOW_S)
    assert (named.kind, named.severity, named.ranks) == ("suspended", "error", (0,))
    assert named.headline.startswith("rank 0 (stage 0) is stopped by a signal for ")
    assert [rank.state for rank in during.ranks] == ["SUSPENDED", "READY"]
    assert during.ranks[0].suspended_s == about(looked - stopped)
    told = {record.kind: record.text for record in records if isinstance(record, EventRecord) and record.rank == 0}
    assert (told["suspended"], told["resumed"]) == ("rank 0 (pp 0) is stopped by SIGSTOP", "rank 0 (pp 0) goes on")
    first, second = steps_of(records, 0), steps_of(records, 1)
    assert max(step.recv_wait_ns for step in second) / 1e9 == about(length)
    # where the stop has caught it, in a step or between two, is chance
    assert max(max(step.wall_ns, step.idle_ns) for step in first) / 1e9 == about(length)
    waiting = seen.ranks[1]
    assert waiting.split is not None
    # what it waits for anyway comes on top of the stop, and is what the records say of all its other waits
    waited = [step.recv_wait_ns + step.idle_ns for step in second]
    share = 100 * (1e9 * length + sum(waited) - max(waited)) / sum(step.wall_ns + step.idle_ns for step in second)
    assert waiting.split.stage == about(share)
    assert waiting.bubble_pct == about(share)
    [named] = diagnose(seen, WINDOW_S)
    assert (named.kind, named.severity, named.ranks) == ("suspended", "warning", (0,))
    assert seen.ranks[0].suspended_s == about(length)
    assert (seen.ranks[0].state, seen.ranks[1].suspended_s) == ("READY", 0.0)


def test_a_router_that_prefers_some_experts(daemon: Served, tmp_path: Path) -> None:
    if not (tmp_path / "model").exists():
        skewed(tmp_path / "model")
    with deployed(daemon, tmp_path / "model", ep=2), recorded(daemon) as records, daemon.stream(400) as events:
        for seed in range(4):  # prompts bring many tokens in a step
            prompt = torch.randint(10, 500, (300,), generator=torch.Generator().manual_seed(seed)).tolist()
            body = {"model": "t", "prompt": prompt, "max_tokens": 1}
            assert httpx.post(daemon.address + "/v1/completions", json=body, timeout=60).status_code == 200
        seen = view(daemon)
        while tokens_of(seen) < 1000:  # ranks tell of them once a second
            next(events)
            seen = view(daemon)
    assert seen.experts is not None
    for tokens in seen.experts.tokens:
        assert sum(tokens[:2]) / sum(tokens) == about(1.0)
    counted = [record for record in records if isinstance(record, ExpertRecord)]
    hot = sum(sum(row) for record in counted if 0 in record.experts for row in record.tokens)
    assert hot / sum(sum(map(sum, record.tokens)) for record in counted) == about(1.0)
    hottest = finding(seen, "expert-imbalance")
    assert hottest.ranks == (0,)
    assert "takes 50% of the fullest" in hottest.headline


def skewed(path: Path) -> None:
    """A token goes to one expert, 0 or 1: their scores are opposite, and larger than any other. The first member has both."""
    write_checkpoint(path, "mixtral", num_experts_per_tok=1)
    file = path / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if name.endswith(".gate.weight"):
            tensor[0] = 100 * torch.randn(tensor.shape[1], generator=torch.Generator().manual_seed(1))
            tensor[1] = -tensor[0]
    save_file(tensors, file, {"format": "pt"})
