"""End to end over real sockets against a server of known pace; and the faults against real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from paced import FIRST_S, NEXT_S, PacedFrontend, Server, target

from runtime.frontend import DeploymentGone, Overloaded
from runtime.stress.arrivals import OpenLoop
from runtime.stress.client import Target, context_of
from runtime.stress.faults import Fault, NoRank
from runtime.stress.goodput import Slo
from runtime.stress.lengths import fixed
from runtime.stress.load import run
from runtime.stress.plan import ClosedLoop, Plan
from runtime.stress.progress import Progress
from runtime.stress.result import Result
from runtime.stress.values import BadPlan
from telemetry.formulas import percentile

ROOT = Path(__file__).parents[2]
CALM_S = 0.004
LAST_S = FIRST_S + 19 * NEXT_S
WAY_S = 0.03  # of a request and its first token through HTTP, on a machine that has other work


def small(pattern: OpenLoop | ClosedLoop, **other: object) -> Plan:
    return Plan(pattern, **{"duration_s": 2.0, "input": fixed(16), "output": fixed(20), **other})


def run_calmly(plan: Plan, server: Server, fox: PacedFrontend, on_progress: Callable[[Progress], None] | None = None) -> Result:
    """Again, at most twice, while the machine is too busy with others for the server to keep its own pace."""
    for _ in range(3):
        fox.tokens = fox.started = 0
        fox.late_s.clear()
        found = run(plan, target(server), on_progress)
        if percentile(fox.late_s, 90) < CALM_S and not found.generator.behind:
            return found
    pytest.skip(f"the machine is too busy: the server's tokens were {1000 * percentile(fox.late_s, 90):.1f} ms late (p90)")


def test_what_is_measured_is_what_the_server_does(paced_server: Server, fox: PacedFrontend):
    seen: list[Progress] = []
    found = run_calmly(small(OpenLoop(10.0), slo=Slo(ttft=200, itl=30)), paced_server, fox, seen.append)
    assert 1000 * FIRST_S <= found.latency["ttft"].p50 <= 1000 * (FIRST_S + WAY_S)
    assert found.latency["itl"].p50 == pytest.approx(1000 * NEXT_S, rel=0.15)
    assert found.latency["tpot"].p50 == pytest.approx(1000 * NEXT_S, rel=0.15)
    assert 1000 * LAST_S <= found.latency["e2e"].p50 <= 1000 * (LAST_S + WAY_S)
    assert found.output_tokens == fox.tokens == 20 * found.requests.ok
    assert found.requests.sent == fox.started
    assert found.events == fox.tokens
    assert found.requests.short == found.requests.errors == 0
    assert found.output_tokens_per_s == pytest.approx(fox.tokens / found.window_s)
    assert found.goodput is not None
    assert found.goodput.good == pytest.approx(found.requests.ok, abs=2)
    assert not found.interrupted
    assert found.kind == "open loop"
    assert all(len(prompt) == 16 and params.ignore_eos for prompt, params in fox.seen)
    assert seen
    assert seen[-1].sent <= found.requests.sent
    assert sum(second.tokens for second in found.timeline) == pytest.approx(fox.tokens)


def test_a_closed_loop_keeps_so_many_open(paced_server: Server, fox: PacedFrontend):
    found = run(small(ClosedLoop(3), duration_s=None, requests=9), target(paced_server))
    assert (found.kind, found.requests.ok, fox.tokens, fox.peak) == ("closed loop", 9, 180, 3)
    assert found.latency["ttft"].p50 >= 1000 * FIRST_S
    assert found.requests_per_s <= 3 / LAST_S


def test_warm_up_is_not_measured(paced_server: Server, fox: PacedFrontend):
    found = run(small(OpenLoop(10.0, "constant"), duration_s=1.0, warmup_s=0.5), target(paced_server))
    assert (found.requests.sent, found.requests.warmup, found.requests.ok) == (10, 5, 5)
    assert found.latency["ttft"].count == 5
    assert found.window_s == pytest.approx(0.9 + FIRST_S + 19 * NEXT_S - 0.5, rel=0.3)


@pytest.mark.parametrize(
    ("failure", "at", "kind"),
    [
        (Overloaded("full"), 0, "429 overloaded"),
        (DeploymentGone("rank 1 died"), 0, "503 deployment_gone"),
        (DeploymentGone("rank 1 died"), 3, "in the stream: deployment_gone"),
    ],
)
def test_errors_are_counted_by_kind_and_against_goodput(
    paced_server: Server, fox: PacedFrontend, failure: Exception, at: int, kind: str
):
    fox.fail, fox.fail_at, fox.fail_every = failure, at, 2
    plan = small(ClosedLoop(2), duration_s=None, requests=8, slo=Slo(e2e=10_000))
    found = run(plan, target(paced_server))
    assert (found.requests.ok, found.requests.errors, found.errors) == (4, 4, {kind: 4})
    assert found.output_tokens == 80
    assert found.goodput is not None
    assert found.goodput.fraction == 0.5


def test_nobody_there(unused_tcp_port: int):
    found = run(small(OpenLoop(50.0), duration_s=0.2), Target(f"http://127.0.0.1:{unused_tcp_port}", "fox"))
    assert found.requests.ok == 0
    assert set(found.errors) <= {"no connection"}
    assert found.latency == {}


def test_what_never_ends_is_an_error_after_the_drain(paced_server: Server, fox: PacedFrontend):
    plan = small(ClosedLoop(2), duration_s=0.2, drain_s=0.1, output=fixed(240))
    found = run(plan, target(paced_server))
    assert found.errors == {"unfinished": 2}


def test_stopped_early_it_tells_what_it_has(paced_server: Server, fox: PacedFrontend):
    stop = threading.Event()
    threading.Timer(0.8, stop.set).start()
    begun = time.monotonic()
    found = run(small(OpenLoop(20.0, "constant"), duration_s=60.0), target(paced_server), stop=stop)
    assert time.monotonic() - begun < 5
    assert found.interrupted
    assert found.requests.ok > 0
    assert found.requests.interrupted > 0
    assert found.errors == {}


def test_the_model_is_asked_for_its_context(paced_server: Server, fox: PacedFrontend):
    assert context_of(target(paced_server)) == 256
    with pytest.raises(BadPlan, match=r"'cat'.*nearest that works: fox"):
        context_of(target(paced_server, "cat"))


def test_a_rank_is_stopped_and_goes_on_and_another_is_killed(paced_server: Server, fox: PacedFrontend):
    sleepers = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
    states: list[str] = []

    def rank(number: int) -> psutil.Process:
        if number > 1:
            raise NoRank("no such rank")
        return psutil.Process(sleepers[number].pid)

    faults = (Fault(0.2, "SIGSTOP", 0, 0.8), Fault(0.3, "SIGKILL", 1), Fault(0.3, "SIGKILL", 2))
    plan = small(OpenLoop(5.0, "constant"), duration_s=1.5, faults=faults)
    try:
        found = run(plan, target(paced_server), lambda _: states.append(rank(0).status()), ranks=rank)
        assert states[0] == psutil.STATUS_STOPPED
        assert rank(0).status() != psutil.STATUS_STOPPED
        assert sleepers[1].wait(5) == -signal.SIGKILL
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
    outcomes = {done.fault: done.outcome for done in found.faults}
    assert outcomes[str(faults[0])].startswith("stopped for 0.")
    assert outcomes[str(faults[1])] == "killed"
    assert outcomes[str(faults[2])] == "not done: no such rank"


def test_an_end_before_its_time_continues_what_was_stopped(paced_server: Server, fox: PacedFrontend):
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    faults = (Fault(0.1, "SIGSTOP", 0, 30.0), Fault(40.0, "SIGKILL", 0))
    try:
        plan = small(OpenLoop(5.0), duration_s=60.0, faults=faults)
        found = run(plan, target(paced_server), stop=stop, ranks=lambda _: psutil.Process(sleeper.pid))
        assert psutil.Process(sleeper.pid).status() != psutil.STATUS_STOPPED
    finally:
        sleeper.kill()
        sleeper.wait()
    assert [done.outcome.split(" for")[0] for done in found.faults] == ["stopped", "not done: the load ended before"]


def test_faults_need_somebody_who_knows_the_ranks(paced_server: Server):
    with pytest.raises(BadPlan, match="local deployments"):
        run(small(OpenLoop(5.0), faults=(Fault(0.1, "SIGKILL", 0),)), target(paced_server))


def command(*arguments: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "shardscope", "stress", *arguments]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_ends_it_reports_what_was_measured(signum: int, paced_server: Server, fox: PacedFrontend, tmp_path: Path):
    page = tmp_path / "r.html"
    running = command(
        "fox", "--url", paced_server.url, "--rate", "20", "--duration", "60", "--input-tokens", "16", "--output-tokens", "20",
        "--json", "--report", str(page),
    )  # fmt: skip
    deadline = time.monotonic() + 20
    begun = fox.started
    while fox.started < begun + 10:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signum)
    out, err = running.communicate(timeout=10)
    assert running.returncode == 130, err
    found = json.loads(out)
    assert found["interrupted"] is True
    assert found["requests"]["ok"] > 0
    assert "INTERRUPTED" in page.read_text()


def test_the_command_line(paced_server: Server, fox: PacedFrontend):
    steps = command(
        "fox",
        "--url",
        paced_server.url,
        "--concurrency",
        "1,2",
        "--requests",
        "4",
        "--input-tokens",
        "16",
        "--output-tokens",
        "5",
    )
    bad = command("fox", "--url", paced_server.url, "--output-tokens", "300")
    faulty = command("fox", "--url", paced_server.url, "--fault", "t=1 SIGKILL rank=0")
    out, err = steps.communicate(timeout=20)
    assert steps.returncode == 0, err
    _, first, second, knee = out.splitlines()
    assert (first.split()[0], second.split()[0]) == ("1", "2")
    assert knee.startswith("knee ")
    for process, says in ((bad, "the model's context holds 256"), (faulty, "local deployments")):
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (2, "")
        assert says in err
        assert "nearest that works" in err
