"""Reconfiguration of a real deployment under load: clients see a pause, every token is as undisturbed, failures roll back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from served import Served, until
from under_load import STREAMS, Birth, Load, Reconfiguration, comes_to, commit, pids

from runtime.client import DaemonError
from runtime.control import RECONFIGURE, Changed, Outcome
from runtime.rank.faults import Fault

PHASES = ["drain", "stop", "load", "warm-up", "replay"]
LIMITS = {"dtype": "float32", "max_model_len": 512, "max_num_seqs": STREAMS}


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
    told = [event.text for event in served.client.snapshot().events if event.kind == RECONFIGURE]
    assert told[-6:] == [*map(str, change.phases), change.words]


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


def test_a_rank_that_dies_at_its_birth(undisturbed: list[str], served: Served) -> None:
    generation, load, birth = served.deployment()["generation"], Load(served), Birth(served)
    asked = Reconfiguration(served, tp=1, pp=2)
    os.kill(birth.next(), signal.SIGKILL)
    rolled_back(served, generation, asked.wait(), "load")
    assert "was ended by SIGKILL" in str(asked.error)
    assert load.ends() == undisturbed


def test_who_forks_ranks_dies_while_they_are_stopped(undisturbed: list[str], served: Served) -> None:
    """The next generation is born of another, or, when the death is seen late, the old one is: no request is lost either way."""
    generation, load = served.deployment()["generation"], Load(served)
    zygote = next(pid for pid in served.pids() if "runtime.rank.zygote" in Path(f"/proc/{pid}/cmdline").read_text())
    commit(pids(served)[0], 2, Fault.SLOW, 0.3)
    asked = Reconfiguration(served, tp=1, pp=2)
    comes_to(served, "drain")
    os.kill(zygote, signal.SIGSTOP)  # nobody tells of the ranks' deaths
    comes_to(served, "stop")
    os.kill(zygote, signal.SIGKILL)
    change = asked.wait()
    assert change.outcome in (Outcome.CHANGED, Outcome.ROLLED_BACK)
    until(lambda: served.deployment()["state"] == "READY", 30)
    assert load.ends() == undisturbed
    assert served.deployment()["generation"] > generation


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


def test_when_the_way_back_fails_too_it_is_a_failure_like_any(served: Served, model: Path) -> None:
    load, weights = Load(served), list(model.glob("*.safetensors"))
    for path in weights:
        path.rename(path.with_suffix(".gone"))  # neither layout can load
    try:
        asked = Reconfiguration(served, tp=1, pp=2)
        change = asked.wait()
    finally:
        for path in weights:
            path.with_suffix(".gone").rename(path)
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
