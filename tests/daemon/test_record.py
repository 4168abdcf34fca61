"""The daemon records a real deployment: what a screen showed live is what a replay shows, and no client is needed meanwhile."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from served import Served, until

from profiles.container import KEYFRAMES
from profiles.measures import measure
from profiles.player import Player, events_of
from profiles.reader import Profile
from profiles.tables import records
from runtime.client import DaemonError
from telemetry.codec import decode_envelope
from telemetry.records import CollectiveRecord, RequestRecord, StepRecord

T = TypeVar("T")


@pytest.fixture(scope="module")
def served(daemon: Served, model: Path) -> Served:
    daemon.deploy(model)
    return daemon


def started(served: Served, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "shardscope", "record", "t", *arguments, "--run-dir", str(served.process.run_dir.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "recording 't' to" in process.stderr.readline()
    return process


def requests(served: Served) -> int:
    """That finished, as far as telemetry knows: engines tell four times a second."""
    return sum(served.client.snapshot().deployments[0].engine.finished_by_reason.values())


def shardscope(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "shardscope", *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_a_recording_from_the_command_line_to_every_tool(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    before = requests(served)
    process = started(served, "-o", str(path))
    for _ in range(4):
        served.complete(60)
    until(lambda: requests(served) == before + 4, 5)
    live = served.deployment()
    process.send_signal(signal.SIGINT)
    out, words = process.communicate(timeout=20)
    assert (process.returncode, out.strip()) == (0, str(path)), words
    with Profile(path) as profile:
        assert profile.complete
        assert profile.provenance is not None
        assert profile.provenance.layout == {"dp": 1, "pp": 1, "ep": 1, "tp": 2}
        assert profile.provenance.torch
        assert profile.provenance.config_hash
        assert profile.provenance.settings["block_size"]
        replayed = Player(profile).at(profile.end_ns).deployments[0]
        assert replayed.engine.generated_tokens >= live["engine"]["generated_tokens"]
        assert [rank.info.pid for rank in replayed.ranks] == [rank["pid"] for rank in live["ranks"]]
        assert [rank.memory.weights for rank in replayed.ranks] == [rank["memory"]["weights"] for rank in live["ranks"]]
        assert measure(profile).output_tokens == 4 * 60
        assert any(event.kind == "recording" for event in events_of(profile))
    at = json.loads(shardscope("replay", path, "--json", "--at", "0:00.5").stdout)
    assert at["deployments"][0]["name"] == "t"
    summary = json.loads(shardscope("replay", path, "--summary", "--json").stdout)
    assert summary["requests"] == 4
    assert shardscope("export", path, "--format", "chrome", "-o", tmp_path / "trace.json").returncode == 0
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-300])
    assert shardscope("recover", tmp_path / "cut", "-o", tmp_path / "healed.mcap").returncode == 0
    assert shardscope("compare", path, tmp_path / "nothing").returncode == 2


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_command_ends_the_recording(signum: int, served: Served, tmp_path: Path) -> None:
    path = tmp_path / "ended.mcap"
    process = started(served, "-o", str(path))
    process.send_signal(signum)
    out, words = process.communicate(timeout=20)
    assert (process.returncode, out.strip()) == (0, str(path)), words
    assert served.client.recordings() == []
    with Profile(path) as profile:
        assert profile.complete


def test_a_recording_that_ends_right_after_a_request_has_it_whole(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "short.mcap"
    list(served.client.record("t", path, wait=False))
    served.complete(12)
    served.client.stop_recording("t")
    with Profile(path) as profile:
        envelopes = [decode_envelope(entry.data) for entry in profile.entries() if entry.topic != KEYFRAMES]
    records = [record for envelope in envelopes for record in envelope.records]
    (request,) = (record for record in records if isinstance(record, RequestRecord))
    assert (request.output_tokens, len(request.gaps_ns)) == (12, 11)
    for rank in (0, 1):
        steps = [record for record in records if isinstance(record, StepRecord) and record.rank == rank]
        assert sum(step.decode_tokens for step in steps) == 11
        totals = [record for record in records if isinstance(record, CollectiveRecord) and record.rank == rank]
        assert sum(record.calls for record in totals) == sum(step.axes["tp"].calls for step in steps)


def test_the_recording_outlives_the_client_that_asked_for_it(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "alone.mcap"
    process = started(served, "-o", str(path), "--seconds", "2")
    process.kill()
    process.communicate()
    until(path.exists, 10)
    with Profile(path) as profile:
        assert profile.complete
        assert profile.seconds > 0.5


def test_one_recording_at_a_time_and_no_file_is_overwritten(served: Served, tmp_path: Path) -> None:
    assert [type(news).__name__ for news in served.client.record("t", tmp_path / "a.mcap", wait=False)] == ["Begun"]
    with pytest.raises(DaemonError, match="already"):
        list(served.client.record("t", tmp_path / "b.mcap"))
    report = served.client.stop_recording("t")
    assert (report.error, report.files) == ("", [str(tmp_path / "a.mcap")])
    for path, words in ((tmp_path / "a.mcap", "exists"), (tmp_path / "no" / "dir.mcap", "No such file")):
        with pytest.raises(DaemonError, match=words):
            list(served.client.record("t", path))
    with pytest.raises(DaemonError, match="not being recorded"):
        served.client.stop_recording("t")
    with pytest.raises(DaemonError, match="no deployment 'nobody'"):
        list(served.client.record("nobody", tmp_path / "c.mcap"))


def test_a_daemon_that_ends_finishes_its_recordings(run_dir: Path, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    daemon = Served(run_dir)
    daemon.deploy(make_checkpoint("llama"))
    list(daemon.client.record("t", tmp_path / "last.mcap", wait=False))
    daemon.complete(20)
    until(lambda: requests(daemon) == 1, 5)
    daemon.close()
    with Profile(tmp_path / "last.mcap") as profile:
        assert profile.complete
        assert measure(profile).output_tokens == 20


def test_a_killed_daemon_leaves_all_but_the_last_second(
    run_dir: Path, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    daemon = Served(run_dir)
    daemon.deploy(make_checkpoint("llama"))
    list(daemon.client.record("t", tmp_path / "killed.mcap", wait=False))
    daemon.complete(20)
    until(lambda: requests(daemon) == 1, 5)
    time.sleep(1.5)  # the flush
    os.kill(daemon.process.pid, signal.SIGKILL)
    with suppress(Exception):
        daemon.close()
    said = shardscope("recover", tmp_path / "killed.mcap.part", "-o", tmp_path / "saved.mcap")
    assert said.returncode == 0, said.stderr
    with Profile(tmp_path / "saved.mcap") as profile:
        assert measure(profile).output_tokens == 20


def metric(served: Served, name: str) -> float:
    """Summed over its labels."""
    text = httpx.get(served.address + "/metrics", timeout=10).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} ")))


def recorded(paths: Iterable[Path], kind: type[T]) -> list[T]:
    found: list[T] = []
    for path in paths:
        with Profile(path) as profile:
            found += [record for _, _, record in records(profile) if isinstance(record, kind)]
    return found


def test_what_is_recorded_is_what_metrics_and_the_engine_say(served: Served, tmp_path: Path) -> None:
    """Stopped right after the last answer, without waiting for anything."""
    path = tmp_path / "counts.mcap"
    until(lambda: served.deployment()["engine"]["running"] == 0, 5)
    counted = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:request_success_total")
    before = {name: metric(served, name) for name in counted}
    list(served.client.record("t", path, wait=False))
    asked = [3, 17, 40, 1]
    answers = [served.complete(tokens) for tokens in asked]
    with served.stream(25) as events:
        streamed = sum(1 for event in events if event["choices"][0]["text"] or event["choices"][0]["finish_reason"])
    assert streamed
    report = served.client.stop_recording("t")
    assert (report.error, report.dropped) == ("", 0)
    requests = recorded([path], RequestRecord)
    assert sorted(request.output_tokens for request in requests) == sorted([*asked, 25])
    assert sorted(len(request.gaps_ns) + 1 for request in requests) == sorted([*asked, 25])
    for request in requests:
        assert request.first_token_ns is not None
        assert abs(request.first_token_ns + sum(request.gaps_ns) - request.finished_ns) < 50e6
    prompt = sum(answer["usage"]["prompt_tokens"] for answer in answers) + answers[0]["usage"]["prompt_tokens"]
    grown = {name: metric(served, name) - before[name] for name in counted}
    assert grown == dict(zip(counted, (sum(asked) + 25, prompt, 5), strict=True))
    with Profile(path) as profile:
        measured, last = measure(profile), Player(profile).at(profile.end_ns).deployments[0]
    assert (measured.requests, measured.output_tokens, measured.prompt_tokens) == (5, sum(asked) + 25, prompt)
    live = served.deployment()["engine"]
    for name in ("generated_tokens", "prompt_tokens", "finished"):
        assert getattr(last.engine, name) == live[name]
    assert last.engine.generated_tokens == metric(served, "vllm:generation_tokens_total")
    ranks = {rank: [step for step in recorded([path], StepRecord) if step.rank == rank] for rank in (0, 1)}
    assert [sum(step.decode_tokens for step in steps) for steps in ranks.values()] == [sum(asked) + 25 - 5] * 2
    assert [sum(step.prefill_tokens for step in steps) for steps in ranks.values()] == [
        prompt - sum(request.cached_tokens for request in requests)
    ] * 2


@pytest.mark.parametrize("limit", [{"rotate_bytes": 15_000}, {"rotate_s": 1.0}], ids=["by size", "by age"])
def test_a_long_recording_goes_on_in_further_files_each_of_which_stands_alone(
    served: Served, tmp_path: Path, limit: dict[str, float]
) -> None:
    list(served.client.record("t", tmp_path / "long.mcap", wait=False, **limit))  # type: ignore[arg-type]
    asked = [30] * 12
    for tokens in asked:
        served.complete(tokens)
        time.sleep(0.2)  # requests over more than one of the files' seconds
    report = served.client.stop_recording("t")
    files = [Path(path) for path in report.files]
    assert len(files) >= 3
    assert [path.name for path in files] == ["long.mcap"] + [f"long-{number}.mcap" for number in range(2, len(files) + 1)]
    assert sum(request.output_tokens for request in recorded(files, RequestRecord)) == sum(asked)
    steps = [(step.rank, step.step) for step in recorded(files, StepRecord)]
    assert len(set(steps)) == len(steps)  # nothing twice, and nothing missing:
    for rank in (0, 1):
        numbers = [number for at, number in steps if at == rank]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    totals = []
    for path in files:
        with Profile(path) as profile:
            assert profile.complete
            assert profile.provenance is not None
            shown = Player(profile).at(profile.end_ns).deployments[0]
            assert (shown.state, len(shown.ranks)) == ("READY", 2)
            totals.append(shown.engine.generated_tokens)
    assert totals == sorted(totals)
    assert totals[-1] == served.deployment()["engine"]["generated_tokens"]


def test_what_is_being_recorded_can_be_asked_for(served: Served, tmp_path: Path) -> None:
    assert served.client.recordings() == []
    list(served.client.record("t", tmp_path / "now.mcap", wait=False))
    [first] = served.client.recordings()
    assert (first.deployment, first.path) == ("t", str(tmp_path / "now.mcap"))
    served.complete(60)
    until(lambda: served.client.recordings()[0].bytes > first.bytes, 10)
    served.client.stop_recording("t")
    assert served.client.recordings() == []


def test_a_full_disk_ends_the_recording_loudly_and_nothing_else(
    run_dir: Path, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """RLIMIT_FSIZE stands in for the disk: the daemon's writes beyond it fail with EFBIG, as they would with ENOSPC."""
    daemon = Served(run_dir)
    try:
        daemon.deploy(make_checkpoint("llama"))
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (60_000, 60_000))
        list(daemon.client.record("t", tmp_path / "full.mcap", wait=False))
        tokens = 0
        while daemon.client.recordings():
            daemon.complete(50)
            tokens += 50
            assert tokens < 20_000
        told = [event for event in daemon.client.snapshot().events if event.kind == "recording"]
        assert [event.severity for event in told] == ["info", "error"]
        assert "File too large" in told[-1].text
        assert f"{tmp_path / 'full.mcap'}.part" in told[-1].text
        assert daemon.deployment()["state"] == "READY"
        daemon.complete(20)
        until(lambda: daemon.deployment()["engine"]["generated_tokens"] == tokens + 20, 5)
        with pytest.raises(DaemonError, match="not being recorded"):
            daemon.client.stop_recording("t")
        said = shardscope("recover", tmp_path / "full.mcap.part", "-o", tmp_path / "saved.mcap")
        assert said.returncode == 0, said.stderr
        with Profile(tmp_path / "saved.mcap") as profile:
            assert profile.complete
            assert 0 < measure(profile).output_tokens <= tokens
    finally:
        daemon.close()
