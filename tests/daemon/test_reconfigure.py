"""Reconfiguration of a real deployment under load: clients see a pause, every token is as undisturbed, failures roll back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil
import pytest
from served import Served, until

from runtime.client import DaemonError
from runtime.control import Changed, Outcome
from runtime.rank.board import Board
from runtime.rank.faults import Fault

STREAMS = 16
TOKENS = 96
PHASES = ["drain", "stop", "load", "warm-up", "replay"]
PROMPTS = ["the rank that waits " * (1 + number % 7) + str(number) for number in range(STREAMS)]
LIMITS = {"dtype": "float32", "max_model_len": 512, "max_num_seqs": STREAMS}


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("llama")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Served]:
    with TemporaryDirectory(prefix="shardscope-test-") as path:
        served = Served(Path(path))
        yield served
        served.close()


@pytest.fixture
def served(daemon: Served, model: Path) -> Served:
    """It serves tp2, whatever the test before has left."""
    states = {each["name"]: each["state"] for each in daemon.status()["deployments"]}
    if states.get("t", "STOPPED") in ("STOPPED", "FAILED"):
        daemon.deploy(model, **LIMITS)
    until(lambda: daemon.deployment()["state"] == "READY", 20)
    Reconfiguration(daemon, tp=2, pp=1, **LIMITS).wait()
    return daemon


@pytest.fixture(scope="module")
def undisturbed(daemon: Served, model: Path) -> list[str]:
    """What each prompt is continued with when nothing happens."""
    daemon.deploy(model, **LIMITS)
    return Load(daemon).ends()


class Load:
    """Open streams, each read by a thread of its own, and each with a first token. Every fourth is seeded, the others greedy."""

    def __init__(self, served: Served) -> None:
        self._address = served.address
        self._begun = threading.Semaphore(0)
        self._pool = ThreadPoolExecutor(STREAMS)
        self._streams = [self._pool.submit(self._read, number) for number in range(STREAMS)]
        for _ in range(STREAMS):
            assert self._begun.acquire(timeout=20)

    @property
    def open(self) -> int:
        return sum(not stream.done() for stream in self._streams)

    def ends(self) -> list[str]:
        """The whole texts; the first error of any stream is raised."""
        texts = [stream.result(timeout=60) for stream in self._streams]
        self._pool.shutdown()
        return texts

    def errors(self) -> set[str]:
        errors = {str(stream.exception(timeout=60)) for stream in self._streams}
        self._pool.shutdown()
        return errors

    def _read(self, number: int) -> str:
        choice = {"seed": number, "temperature": 0.9} if number % 4 == 3 else {"temperature": 0}
        body = {"model": "t", "prompt": PROMPTS[number], "max_tokens": TOKENS, "ignore_eos": True, "stream": True, **choice}
        text, finish, begun = "", None, False
        with httpx.stream("POST", self._address + "/v1/completions", json=body, timeout=60) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        raise RuntimeError(event["error"]["message"])
                    text += event["choices"][0]["text"]
                    finish = event["choices"][0]["finish_reason"]
                    if not begun:
                        begun = True
                        self._begun.release()
        assert finish == "length"
        return text


class Reconfiguration:
    """One under way, in a thread with a client of its own. `error`: what the command would say."""

    def __init__(self, served: Served, **fields: object) -> None:
        self.error: DaemonError | None = None
        self._served, self._fields = served, fields
        self._pool = ThreadPoolExecutor(1)
        self._end: Future[Changed] = self._pool.submit(self._run)

    def wait(self) -> Changed:
        change = self._end.result(timeout=40)
        self._pool.shutdown()
        return change

    def _run(self) -> Changed:
        changes = []
        with self._served.process.client() as client:
            try:
                for news in client.reconfigure("t", self._fields):
                    changes += [news] if isinstance(news, Changed) else []
            except DaemonError as error:
                self.error = error
        return changes[0]


def pids(served: Served) -> list[int]:
    return [rank["pid"] for rank in served.deployment()["ranks"]]


def comes_to(served: Served, phase: str) -> None:
    def doing() -> bool:
        deployment = served.deployment()
        return (deployment["state"], deployment["phase"]) == ("RECONFIGURING", phase)

    until(doing, 10)


def commit(pid: int, world_size: int, fault: Fault, seconds: float = 0) -> None:
    """Write a fault on the board that a rank inherited, for every rank of its generation."""
    fds = Path(f"/proc/{pid}/fd")
    board = next(fd for fd in fds.iterdir() if "shardscope-board" in os.readlink(fd))
    for status in Board(os.open(board, os.O_RDWR), world_size).ranks:
        status.fault_arg, status.fault = round(seconds * 1e6), fault


class Birth:
    """Sees the next generation's first rank at its birth, before it has loaded."""

    def __init__(self, served: Served) -> None:
        self._zygote = next(pid for pid in served.pids() if "runtime.rank.zygote" in Path(f"/proc/{pid}/cmdline").read_text())
        self._known = set(os.listdir("/proc"))

    def next(self) -> int:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            now = set(os.listdir("/proc"))
            new, self._known = now - self._known, now
            for pid in sorted(map(int, filter(str.isdigit, new))):
                with suppress(OSError, psutil.Error):
                    if psutil.Process(pid).ppid() == self._zygote:
                        return pid
        raise AssertionError("nobody is born")


def rolled_back(served: Served, generation: int, change: Changed, phase: str) -> None:
    """From that phase, to the old layout, and every path of it was timed."""
    assert change.outcome == Outcome.ROLLED_BACK
    forward = [each.phase for each in change.phases if not each.rollback]
    assert forward == PHASES[: PHASES.index(phase) + 1]
    assert [each.phase for each in change.phases if each.rollback] == PHASES[1:]
    deployment = served.deployment()
    assert (deployment["state"], deployment["reason"]) == ("READY", "")
    assert deployment["layout"] == change.layout == {"dp": 1, "pp": 1, "ep": 1, "tp": 2}
    assert deployment["generation"] == generation + (1 if phase == "drain" else 2)


def test_sixteen_streams_live_through_every_layout(undisturbed: list[str], served: Served) -> None:
    generation = served.deployment()["generation"]
    load = Load(served)
    for fields, words in (({"tp": 1, "pp": 2}, "pp2"), ({"tp": 2}, "tp2pp2")):
        change = Reconfiguration(served, **fields).wait()
        assert change.outcome == Outcome.CHANGED
        assert [each.phase for each in change.phases] == PHASES
        assert words in change.words
    assert load.open == STREAMS
    assert load.ends() == undisturbed
    deployment = served.deployment()
    assert (deployment["state"], deployment["generation"]) == ("READY", generation + 2)
    assert deployment["layout"] == {"dp": 1, "pp": 2, "ep": 1, "tp": 2}
    told = [event.text for event in served.client.snapshot().events if event.kind == "reconfigure"]
    assert [text.split()[0] for text in told[-6:-1]] == PHASES


def test_a_rank_that_dies_while_steps_drain(undisturbed: list[str], served: Served) -> None:
    generation, load = served.deployment()["generation"], Load(served)
    commit(pids(served)[0], 2, Fault.SLOW, 0.5)
    asked = Reconfiguration(served, tp=1, pp=2)
    comes_to(served, "drain")
    with pytest.raises(DaemonError, match="is being reconfigured") as refused:
        list(served.client.reconfigure("t", {"dp": 2}))
    assert refused.value.usage
    os.kill(pids(served)[1], signal.SIGKILL)
    rolled_back(served, generation, asked.wait(), "drain")
    assert "rank 1 (tp 1) was ended by SIGKILL" in str(asked.error)
    assert "serves tp2 as before" in str(asked.error)
    assert load.ends() == undisturbed


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"tp": 1, "threads": 1 << 40}, "exited with code 1"), ({"dp": 2, "kv_cache_bytes": 1}, "KV memory for 0 tokens")],
)
def test_ranks_that_cannot_load(undisturbed: list[str], served: Served, fields: dict, words: str) -> None:
    generation, load = served.deployment()["generation"], Load(served)
    asked = Reconfiguration(served, **fields)
    rolled_back(served, generation, asked.wait(), "load")
    assert words in str(asked.error)
    assert load.ends() == undisturbed


def test_a_rank_that_dies_while_it_warms_up(undisturbed: list[str], served: Served) -> None:
    generation, load, birth = served.deployment()["generation"], Load(served), Birth(served)
    asked = Reconfiguration(served, tp=2, pp=2)
    commit(birth.next(), 4, Fault.SLOW, 1)
    comes_to(served, "warm-up")
    os.kill(pids(served)[3], signal.SIGKILL)
    rolled_back(served, generation, asked.wait(), "warm-up")
    assert "rank 3 (pp 1 tp 1) was ended by SIGKILL" in str(asked.error)
    assert load.ends() == undisturbed


def test_a_rank_that_raises_while_requests_are_replayed(undisturbed: list[str], served: Served) -> None:
    generation, load, birth = served.deployment()["generation"], Load(served), Birth(served)
    asked = Reconfiguration(served, tp=1, pp=2, max_num_batched_tokens=32)  # many steps
    born = birth.next()
    commit(born, 2, Fault.SLOW, 0.2)
    comes_to(served, "replay")
    commit(born, 2, Fault.RAISE)
    rolled_back(served, generation, asked.wait(), "replay")
    assert "InjectedFault" in str(asked.error)
    assert load.ends() == undisturbed


def test_room_for_fewer_tokens_than_an_open_request_may_need(undisturbed: list[str], served: Served) -> None:
    generation, load = served.deployment()["generation"], Load(served)
    with pytest.raises(DaemonError, match="max_model_len 100: an open request may come to") as refused:
        list(served.client.reconfigure("t", {"max_model_len": 100}))
    assert refused.value.usage
    assert served.deployment()["generation"] == generation
    # known only when the ranks have loaded: 5 blocks of 16 tokens, one of them nobody's
    room = 5 * 16 * 2 * 4 * 16 * 4 * 4
    asked = Reconfiguration(served, tp=1, max_model_len=None, kv_cache_bytes=room)
    rolled_back(served, generation, asked.wait(), "replay")
    assert "KV memory for 64 tokens, an open request may come to" in str(asked.error)
    assert load.ends() == undisturbed


def test_what_cannot_be_is_refused_and_nothing_is_touched(served: Served) -> None:
    before = served.deployment()
    for fields, words in (
        ({"tp": 3}, "Nearest that work"),
        ({"tp": 0}, "greater than or equal to 1"),
        ({"flavour": 1}, "flavour"),
        ({"model": "/nowhere"}, "model cannot change"),
    ):
        with pytest.raises(DaemonError, match=words) as refused:
            list(served.client.reconfigure("t", fields))
        assert refused.value.usage
    with pytest.raises(DaemonError, match="no deployment 'x'"):
        list(served.client.reconfigure("x", {"tp": 1}))
    after = served.deployment()
    assert [rank["pid"] for rank in after["ranks"]] == [rank["pid"] for rank in before["ranks"]]
    assert (after["state"], after["generation"]) == ("READY", before["generation"])


def test_when_the_way_back_fails_too_it_is_a_failure_like_any(served: Served) -> None:
    load, birth = Load(served), Birth(served)
    asked = Reconfiguration(served, tp=1, pp=2)
    commit(birth.next(), 2, Fault.DIE)
    until(lambda: "rolling back" in served.deployment()["reason"], 10)
    commit(birth.next(), 2, Fault.DIE)
    change = asked.wait()
    assert change.outcome == Outcome.FAILED
    assert "then the way back to tp2 failed" in str(asked.error)
    assert all("lost its ranks" in error for error in load.errors())
    until(lambda: served.deployment()["state"] == "READY", 20)
    assert served.deployment()["layout"]["tp"] == 2
    assert served.complete()


def test_a_dead_engine_takes_the_requests_along_but_the_old_layout_serves(served: Served) -> None:
    load = Load(served)
    commit(pids(served)[0], 2, Fault.SLOW, 0.5)
    asked = Reconfiguration(served, tp=1)
    comes_to(served, "drain")
    engine = next(child for child in served.pids() if "runtime.engine" in Path(f"/proc/{child}/cmdline").read_text())
    os.kill(engine, signal.SIGKILL)
    assert asked.wait().outcome == Outcome.ROLLED_BACK
    assert "the engine was ended by SIGKILL" in str(asked.error)
    assert "and with it every request" in str(asked.error)
    assert all("the engine was ended by SIGKILL" in error for error in load.errors())
    assert served.complete()


def test_a_stop_in_the_middle_ends_both(served: Served) -> None:
    load, birth = Load(served), Birth(served)
    asked = Reconfiguration(served, tp=1, pp=2)
    commit(birth.next(), 2, Fault.SLOW, 1)
    comes_to(served, "warm-up")
    served.client.stop("t")
    assert asked.wait().outcome == Outcome.STOPPED
    assert all("stopped" in error for error in load.errors())
    assert served.deployment()["state"] == "STOPPED"
    assert len(served.pids()) == 1  # the zygote


def test_the_command_line_reconfigures(served: Served) -> None:
    def reconfigure(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "shardscope", "reconfigure", "t", *arguments]
        command += ["--run-dir", str(served.process.run_dir.path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    done = reconfigure("--tp", "1", "--max-num-seqs", "8", "--json")
    assert done.returncode == 0, done.stderr
    change = json.loads(done.stdout)
    assert change["fields"] == {"tp": [2, 1], "max_num_seqs": [16, 8]}
    assert (change["outcome"], [each["phase"] for each in change["phases"]]) == ("changed", PHASES)
    assert sum(each["seconds"] for each in change["phases"]) == pytest.approx(change["seconds"])
    assert "already" in reconfigure("--tp", "1").stdout
    failed = reconfigure("--kv-cache-bytes", "1", "--json")
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["outcome"] == "rolled-back"
    assert "serves tp1 as before" in failed.stderr
    assert reconfigure("--tp", "3").returncode == 2
    generation = served.deployment()["generation"]
    assert reconfigure("--max-num-seqs", "16", "--no-wait").returncode == 0
    until(lambda: (served.deployment()["state"], served.deployment()["generation"]) == ("READY", generation + 1), 10)
