"""Ranks are born, watched and ended: through a real zygote, with fake models."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import fake_rank
import psutil
import pytest
from fake_model import MACHINE, SHAPE

from runtime.daemon import blame
from runtime.daemon.launcher import Endpoints, LaunchRefused, RankGroup
from runtime.daemon.settle import settle
from runtime.rank.board import Phase
from runtime.rank.nursery import Suspension, Zygote
from runtime.spec import DeploymentSpec

Launch = Callable[..., RankGroup]


def until(condition: Callable[[], object], group: RankGroup, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, group.failure
        group.poll()
        time.sleep(0.005)


def gone(pid: int) -> bool:
    """Ended; a zombie that its new parent has yet to reap counts."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_start_takes_the_least_kv_blocks_and_names_the_limiting_rank(launch: Launch) -> None:
    group = launch(tp=2, pp=2, block_size=4)
    assert group.wait()
    assert group.phase == Phase.READY
    assert group.kv_blocks == fake_rank.KV_BLOCKS - 3
    assert group.limiting_rank == 3
    assert group.max_model_len == (group.kv_blocks - 1) * 4
    ranks = group.ranks
    assert [(r.pp, r.tp, r.first_layer, r.last_layer) for r in ranks] == [(0, 0, 0, 1), (0, 1, 0, 1), (1, 0, 2, 3), (1, 1, 2, 3)]
    assert all(psutil.Process(r.pid).is_running() for r in ranks)
    started = time.monotonic()
    assert group.kill() == []
    assert time.monotonic() - started < 1
    assert all(gone(r.pid) for r in ranks)


def test_ranks_are_forked_by_a_process_with_one_thread(launch: Launch, zygote: Zygote) -> None:
    group = launch(tp=2)
    assert group.wait()
    assert psutil.Process(zygote.pid).num_threads() == 1


def test_the_log_of_each_rank(launch: Launch, tmp_path) -> None:
    group = launch(tp=2)
    assert group.wait()
    group.kill()
    assert "fake generation 1 rank 1" in (tmp_path / "logs" / "rank-1.log").read_text()


def test_first_death_is_the_cause(launch: Launch) -> None:
    group = launch(tp=2, pp=2)
    assert group.wait()
    group.board.ranks[2].fault = fake_rank.WORK
    until(lambda: group.board.ranks[2].steps == 1, group)
    os.kill(group.ranks[2].pid, signal.SIGKILL)
    until(lambda: group.failure, group)
    group.board.ranks[0].fault = fake_rank.RAISE  # a peer fails afterwards
    until(lambda: group.board.ranks[0].phase == Phase.FAILED, group)
    group.poll()
    failure = group.failure
    assert failure is not None
    assert (failure.kind, failure.rank, failure.status) == (blame.DIED, 2, -9)
    assert "rank 2 (pp 1 tp 0) was ended by SIGKILL" in failure.cause
    assert failure.collective == "last collective: tp all-reduce 1"


def test_an_exception_leaves_its_traceback(launch: Launch) -> None:
    group = launch()
    assert group.wait()
    group.board.ranks[0].fault = fake_rank.RAISE
    until(lambda: group.failure, group)
    assert group.failure is not None
    assert group.failure.status == 1
    assert "Traceback" in group.failure.last_words
    assert str(group.failure).count("RuntimeError: fault on rank 0") == 1


def test_a_rank_that_failed_has_come_to_no_phase(tmp_path) -> None:
    """It says so on the board a moment before its death is reported."""
    spec = DeploymentSpec(model=tmp_path, name="fake")
    group = RankGroup(spec, SHAPE, settle(spec, SHAPE, MACHINE), 1)
    group.board.ranks[0].phase = Phase.FAILED
    assert group.poll() == Phase.SPAWNED
    group.close()


def test_of_exceptions_reaped_together_the_earliest_raised_is_the_cause(launch: Launch) -> None:
    board = launch(tp=2).board.ranks
    board[0].failed_ns, board[1].failed_ns = 2000, 1000
    assert blame.first_death([(0, 1), (1, 1)], board) == (1, 1)
    assert blame.first_death([(0, -9), (1, 1)], board) == (0, -9)


def test_a_rank_that_was_told_to_leave_is_no_failure(launch: Launch) -> None:
    group = launch(tp=2)
    assert group.wait()
    for status in group.board.ranks:
        status.fault = fake_rank.LEAVE
    assert group.stop(grace=5) == []
    assert group.failure is None


def test_a_rank_that_a_signal_stops_and_lets_go_on_is_told_of_at_once(launch: Launch) -> None:
    group = launch(tp=2)
    assert group.wait()
    told: list[Suspension] = []
    for number, kind in ((signal.SIGSTOP, signal.SIGSTOP), (signal.SIGCONT, 0)):
        before = time.perf_counter_ns()
        os.kill(group.ranks[1].pid, number)
        until(lambda: told.extend(group.take_suspensions()) or told, group, 3)
        last = told.pop()
        assert (last.rank, last.signal) == (1, kind)
        assert before < last.time_ns < time.perf_counter_ns()
    assert group.failure is None
    os.kill(group.ranks[0].pid, signal.SIGKILL)
    until(lambda: group.failure, group, 3)
    assert (group.failure.kind, group.failure.rank) == (blame.DIED, 0), "a death is still told, and once"


def test_standstill_names_the_rank_that_did_not_come(launch: Launch) -> None:
    group = launch(tp=2, stall_timeout_s=0.5)
    assert group.wait()
    os.kill(group.ranks[1].pid, signal.SIGSTOP)
    group.board.ranks[0].fault = fake_rank.HANG_IN_COLLECTIVE
    until(lambda: group.failure, group, 3)
    assert group.failure is not None
    assert (group.failure.kind, group.failure.rank) == (blame.STALLED, 1)
    assert "stopped it with a signal" in group.failure.cause
    assert group.kill() == []


def test_standstill_follows_who_waits_for_whom(launch: Launch) -> None:
    group = launch(tp=4, stall_timeout_s=0.3)
    assert group.wait()
    for rank in (0, 1, 3):
        group.board.ranks[rank].fault = fake_rank.HANG_IN_COLLECTIVE
    group.board.ranks[2].fault = fake_rank.HANG_IN_COMPUTE
    until(lambda: group.failure, group, 3)
    assert group.failure is not None
    assert group.failure.rank == 2
    assert "waits for it (last collective: tp all-reduce 1, not left)" in group.failure.cause


def test_a_short_pause_is_no_failure(launch: Launch) -> None:
    group = launch(tp=2, stall_timeout_s=1.0)
    assert group.wait()
    for _ in range(3):
        os.kill(group.ranks[1].pid, signal.SIGSTOP)
        until_time = time.monotonic() + 0.5
        until(lambda limit=until_time: time.monotonic() > limit, group)
        os.kill(group.ranks[1].pid, signal.SIGCONT)
        until_time = time.monotonic() + 0.1
        until(lambda limit=until_time: time.monotonic() > limit, group)
    assert group.failure is None


def test_no_room_for_a_sequence_names_the_rank(launch: Launch) -> None:
    group = launch(tp=2, max_model_len=512, block_size=4)
    assert not group.wait()
    assert group.failure is not None
    assert (group.failure.kind, group.failure.rank) == (blame.NO_ROOM, 1)
    assert "has KV memory for 392 tokens" in group.failure.cause


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"tp": 3}, ["tp 3", "4 attention heads", "Nearest that work: dp3, pp3"]),
        ({"pp": 5}, ["pp 5", "only 4 layers"]),
        ({"pp": 99}, ["pp 99", "Nearest that work: pp4, pp2dp2, tp2pp2"]),
        (
            {"tp": 2, "kv_cache_bytes": 2**34},
            ["17,179,869,184 bytes for each of 2 ranks", "17,179,869,184 bytes. ", "8589934592"],
        ),
        ({"tp": 2, "device": "cuda"}, ["2 ranks", "0 GPUs", "--device cpu"]),
        ({"device": "cuda", "oversubscribe": True}, ["no GPU"]),
        ({"max_model_len": 4096}, ["max_model_len 4096", "512"]),
        ({"transport": "nccl"}, ["--transport nccl"]),
    ],
)
def test_impossible_is_refused_before_any_process_starts(launch: Launch, zygote: Zygote, asked, words) -> None:
    before = len(psutil.Process(zygote.pid).children())
    with pytest.raises(LaunchRefused) as refused:
        launch(**asked)
    assert all(word in str(refused.value) for word in words), refused.value
    assert len(psutil.Process(zygote.pid).children()) == before


def test_letting_a_group_go_kills_its_ranks(launch: Launch) -> None:
    group = launch(tp=2)
    assert group.wait()
    pids = [rank.pid for rank in group.ranks]
    group.close()
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=2)
    assert all(gone(pid) for pid in pids)


def test_ranks_die_with_their_zygote_and_the_group_learns_it(tmp_path) -> None:
    with Zygote("fake_rank") as zygote:
        spec = DeploymentSpec(model=tmp_path, tp=2)
        group = RankGroup.launch(spec, SHAPE, 1, Endpoints(["", ""], ""), None, zygote, MACHINE)
        assert group.wait()
        pids = [rank.pid for rank in group.ranks]
        os.kill(zygote.pid, signal.SIGKILL)
        until(lambda: group.failure, group)
        assert group.failure is not None
        assert group.failure.kind == blame.NURSERY
        until(lambda: all(gone(pid) for pid in pids), group, 2)
        group.kill()


PARENT = """
import sys, time
from pathlib import Path
from runtime.daemon.launcher import Endpoints, RankGroup
from runtime.rank.nursery import Suspension, Zygote
from runtime.spec import DeploymentSpec
from fake_model import MACHINE, SHAPE
zygote = Zygote("fake_rank")
group = RankGroup.launch(DeploymentSpec(model=Path("."), tp=2), SHAPE, 1, Endpoints(["", ""], ""), None, zygote, MACHINE)
assert group.wait()
print(zygote.pid, *[rank.pid for rank in group.ranks], flush=True)
time.sleep(60)
"""


def test_a_parent_killed_with_sigkill_leaves_nobody() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 3
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 2
        while not all(gone(pid) for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.02)
