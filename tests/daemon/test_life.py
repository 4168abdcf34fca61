"""Life and death of a real deployment: what clients see, and what is left in the process table."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from served import Served, gone, until

from runtime.client import DaemonError

STREAM = 900  # tokens: a second or more of the tiny model
DRAINED = 200


@pytest.fixture
def served(daemon: Served) -> Iterator[Served]:
    """A daemon that the test may do anything to, but end it."""
    yield daemon
    with suppress(DaemonError):
        daemon.client.stop("t", now=True)


@pytest.fixture
def mortal(run_dir: Path) -> Iterator[Served]:
    daemon = Served(run_dir)
    yield daemon
    daemon.close()


def kill_rank(served: Served, rank: int) -> None:
    os.kill(served.deployment()["ranks"][rank]["pid"], signal.SIGKILL)


def engine_of(served: Served) -> int:
    return next(child for child in served.pids() if "runtime.engine" in Path(f"/proc/{child}/cmdline").read_text())


def ready(served: Served, generation: int) -> bool:
    deployment = served.deployment()
    return deployment["generation"] == generation and deployment["state"] == "READY"


def test_serves_and_says_so(served: Served, model: Path) -> None:
    generation = served.deploy(model, pp=2)
    assert served.complete(6)["usage"]["completion_tokens"] == 6
    deployment = served.deployment()
    assert (deployment["state"], deployment["generation"], deployment["device"]) == ("READY", generation, "cpu")
    assert deployment["layout"] == {"dp": 1, "pp": 2, "ep": 1, "tp": 2}
    assert {"running", "waiting", "kv_used", "kv_total", "tokens_per_s"} <= deployment["engine"].keys()
    assert [rank["rank"] for rank in deployment["ranks"]] == [0, 1, 2, 3]
    keys = {"rank", "dp", "pp", "ep", "tp", "pid", "state", "util", "memory", "bubble_pct", "allreduce_ms"}
    assert keys <= deployment["ranks"][0].keys()
    assert json.dumps(served.status())
    assert "model_name=" in httpx.get(served.address + "/metrics").text
    assert httpx.get(served.address + "/ready").status_code == 200


def test_a_dead_rank_ends_streams_and_the_next_generation_serves(served: Served, model: Path) -> None:
    first = served.deploy(model)
    with served.stream(STREAM) as events:
        next(events)
        killed = time.monotonic()
        kill_rank(served, 1)
        rest = list(events)
    assert time.monotonic() - killed < 2
    assert "rank 1 (tp 1) was ended by SIGKILL" in rest[-1]["error"]["message"]
    until(lambda: ready(served, first + 1), 20)
    assert served.complete()["usage"]["completion_tokens"] == 4
    died = [event for event in served.client.snapshot().events if event.kind == "rank-died" and event.generation == first]
    assert [event.rank for event in died] == [1]


def test_a_frozen_rank_is_named_and_replaced(served: Served, model: Path) -> None:
    first = served.deploy(model, stall_timeout_s=1.0)
    os.kill(served.deployment()["ranks"][1]["pid"], signal.SIGSTOP)
    answer = httpx.post(served.address + "/v1/completions", json={"model": "t", "prompt": "hello"}, timeout=10)
    assert answer.status_code == 503
    assert "rank 1 (tp 1) made no progress for 1 s" in answer.json()["error"]["message"]
    until(lambda: ready(served, first + 1), 20)
    assert served.complete()


def test_three_failures_in_a_minute_are_enough(served: Served, model: Path) -> None:
    first = served.deploy(model)
    for generation in range(first, first + 3):
        until(lambda wanted=generation: ready(served, wanted), 20)
        kill_rank(served, 0)
    until(lambda: served.deployment()["state"] == "FAILED", 5)
    assert "rank 0 (tp 0) was ended by SIGKILL" in served.deployment()["reason"]
    assert httpx.get(served.address + "/ready").status_code == 503
    assert httpx.get(served.address + "/health").status_code == 200
    until(lambda: len(served.pids()) == 1, 2)  # the zygote
    assert served.deploy(model) == first + 3
    assert served.complete()


def test_a_dead_engine_is_a_failure_like_any(served: Served, model: Path) -> None:
    first = served.deploy(model)
    with served.stream(STREAM) as events:
        next(events)
        os.kill(engine_of(served), signal.SIGKILL)
        assert "the engine was ended by SIGKILL" in list(events)[-1]["error"]["message"]
    until(lambda: ready(served, first + 1), 20)
    assert served.complete()


def test_a_frozen_engine_is_replaced_with_its_ranks(served: Served, model: Path) -> None:
    first = served.deploy(model, stall_timeout_s=1.0)
    frozen = engine_of(served)
    with served.stream(STREAM) as events:
        next(events)
        os.kill(frozen, signal.SIGSTOP)
        assert "the engine stands still" in list(events)[-1]["error"]["message"]
    until(lambda: ready(served, first + 1), 20)
    assert served.complete()
    assert engine_of(served) != frozen


def test_a_daemon_killed_with_sigkill_leaves_nobody(mortal: Served, model: Path) -> None:
    mortal.deploy(model, pp=2)
    pids = mortal.pids()
    assert len(pids) == 6  # zygote, engine, four ranks
    os.kill(mortal.process.pid, signal.SIGKILL)
    until(lambda: all(gone(pid) for pid in pids), 2)


def test_sigterm_drains(mortal: Served, model: Path) -> None:
    mortal.deploy(model, tp=1)  # soon done on a busy machine, too: nobody to wait for
    pids = mortal.pids()
    with mortal.stream(DRAINED) as events:
        next(events)
        os.kill(mortal.process.pid, signal.SIGTERM)
        until(lambda: httpx.get(mortal.address + "/ready").status_code == 503, 2)
        refused = httpx.post(mortal.address + "/v1/completions", json={"model": "t", "prompt": "hello"})
        assert refused.status_code == 503
        assert list(events)[-1]["choices"][0]["finish_reason"] == "length"
    assert mortal.process.stop() == 0
    assert all(gone(pid) for pid in pids)
    assert sorted(path.name for path in mortal.process.run_dir.path.iterdir()) == ["daemon.lock", "daemon.log", "logs"]


def test_a_second_signal_stops_at_once(mortal: Served, model: Path) -> None:
    mortal.deploy(model)
    pids = mortal.pids()
    with mortal.stream(STREAM) as events:
        next(events)
        os.kill(mortal.process.pid, signal.SIGINT)
        until(lambda: mortal.deployment()["state"] == "DRAINING", 2)
        began = time.monotonic()
        os.kill(mortal.process.pid, signal.SIGINT)
        assert "was stopped" in list(events)[-1]["error"]["message"]
    assert mortal.process.stop() == 0
    assert time.monotonic() - began < 3
    assert all(gone(pid) for pid in pids)


def test_stop_ends_a_deployment_and_its_name_is_free_again(served: Served, model: Path) -> None:
    first = served.deploy(model)
    with pytest.raises(DaemonError, match="exists and is READY"):
        served.deploy(model)
    served.client.stop("t")
    assert served.deployment()["state"] == "STOPPED"
    assert len(served.pids()) == 1
    assert not list((served.process.run_dir.sockets).iterdir())
    assert served.deploy(model) == first + 1
    with pytest.raises(DaemonError, match="no deployment 'x'"):
        served.client.stop("x")


def test_a_start_that_fails_says_why_and_is_not_repeated(served: Served, make_checkpoint, tmp_path: Path) -> None:
    source = make_checkpoint("llama", seed=1)
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(DaemonError) as failed:
        served.deploy(tmp_path)
    assert not failed.value.usage
    assert "exited with code 1" in str(failed.value)
    assert served.deployment()["state"] == "FAILED"
    started = [event.generation for event in served.client.snapshot().events if "exited with code 1" in event.text]
    assert len(set(started)) == 1


def test_impossible_deployments_are_usage_errors(served: Served, model: Path) -> None:
    before = [each["generation"] for each in served.status()["deployments"]]
    for asked, words in (
        ({"tp": 3}, "Nearest that work"),
        ({"device": "cuda", "tp": 64}, "tp 64"),
        ({"model": Path("/nowhere")}, "not a directory"),
    ):
        with pytest.raises(DaemonError, match=words) as refused:
            served.deploy(**{"model": model, **asked})
        assert refused.value.usage
    assert [each["generation"] for each in served.status()["deployments"]] == before


def test_the_command_line_deploys_and_shows_logs(served: Served, model: Path) -> None:
    def shardscope(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "shardscope", *arguments, "--run-dir", str(served.process.run_dir.path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    deployed = shardscope("deploy", str(model), "--name", "t", "--tp", "2", "--max-num-seqs", "8")
    assert (deployed.returncode, deployed.stdout) == (0, "t\n")
    assert "READY" in shardscope("status").stdout
    rank = served.deployment()["ranks"][1]
    assert f"rank 1 pid {rank['pid']}" in shardscope("logs", "t", "--rank", "1").stdout
    assert "rank-0 | " in shardscope("logs", "t").stdout
    chosen = [event.text for event in served.client.snapshot().events if event.kind in ("launch", "kv")]
    assert "tp2: cpu, float32" in chosen[-2]
    assert "KV blocks hold" in chosen[-1]
    assert shardscope("deploy", str(model), "--name", "t").returncode == 2
    assert shardscope("stop", "t").returncode == 0


def test_the_demo_without_a_terminal(model: Path) -> None:
    command = [sys.executable, "-m", "shardscope", "demo", "--seconds", "3", "--dir", str(model)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        first = demo.stdout.readline()
        pids = [child.pid for child in psutil.Process(demo.pid).children(recursive=True)]
        lines = [first, *demo.stdout]
        assert demo.wait(timeout=30) == 0, demo.stderr
    assert "tp2 pp2  READY" in first
    assert len(pids) == 7  # daemon, zygote, engine, four ranks
    assert {f"rank {rank}" for rank in range(4)} <= {line.split("  ")[1] for line in lines}
    assert all(gone(pid) for pid in pids)


def test_a_client_that_leaves_frees_its_place(served: Served, model: Path) -> None:
    served.deploy(model)
    with served.stream(STREAM) as events:
        next(events)
        until(lambda: served.deployment()["engine"]["running"] == 1, 1)
    until(lambda: served.deployment()["engine"]["running"] == 0, 1)
    assert served.deployment()["engine"]["aborted"] == 1
    assert served.deployment()["engine"]["kv_used"] == 0
