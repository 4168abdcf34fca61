"""Stress of a real deployment: its result, its profile and /metrics tell of the same load, and a sweep leaves no trace.

Clients count latency from the intended send to the arrival of an event, the server from a request's arrival to a token's making:
they may differ by the way there and back through HTTP, never the other way round beyond a clock's reading.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from served import Served, until

from profiles.reader import Profile
from runtime.stress.tape import ATTACHMENT

REQUESTS, PROMPT, ANSWER = 40, 24, 12
WAY_MS = 60.0  # there and back, on a machine that has other work
CLOCK_MS = 2.0


@pytest.fixture(scope="module")
def served(daemon: Served, model: Path) -> Served:
    daemon.deploy(model, max_num_seqs=8)
    return daemon


def shardscope(served: Served, *arguments: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "shardscope", *arguments]
    place = os.environ | {"SHARDSCOPE_RUN_DIR": str(served.process.run_dir.path)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=place)


def stress(served: Served, *arguments: str) -> dict:
    lengths = ("--input-tokens", str(PROMPT), "--output-tokens", str(ANSWER))
    process = shardscope(served, "stress", "t", *lengths, *arguments, "--json")
    out, words = process.communicate(timeout=90)
    assert process.returncode == 0, words
    return json.loads(out)


def metrics(served: Served) -> dict[str, float]:
    """Sums over labels, by the samples' names; of a histogram its counts by bound too."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(served.address + "/metrics").text):
        for sample in family.samples:
            if sample.labels.get("model_name") == "t":
                name = sample.name + (f" {sample.labels['le']}" if "le" in sample.labels else "")
                found[name] = found.get(name, 0.0) + sample.value
    return found


def bounds(grown: dict[str, float], name: str, q: float) -> tuple[float, float]:
    """The bucket, in ms, that the q-th percentile (0 to 100) of a histogram falls into."""
    counts = sorted((float(key.split()[1]), value) for key, value in grown.items() if key.startswith(f"{name}_bucket "))
    wanted = q / 100 * counts[-1][1]
    low = 0.0
    for bound, count in counts:
        if count >= wanted:
            return 1000 * low, 1000 * bound
        low = bound
    return 1000 * low, math.inf


def test_json_profile_and_metrics_agree(served: Served) -> None:
    before = metrics(served)
    found = stress(served, "--rate", "20", "--arrivals", "constant", "--requests", str(REQUESTS))
    after = metrics(served)
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    [path] = found["profiles"]
    assert Path(path).parent == served.process.run_dir.path / "profiles"
    assert Path(path).name.startswith("t-")
    process = shardscope(served, "replay", path, "--summary", "--json")
    out, words = process.communicate(timeout=60)
    assert process.returncode == 0, words
    replayed = json.loads(out)

    # requests and tokens: exactly, everywhere
    assert found["requests"]["ok"] == replayed["requests"] == grown["vllm:request_success_total"] == REQUESTS
    assert found["output_tokens"] == replayed["output_tokens"] == grown["vllm:generation_tokens_total"] == REQUESTS * ANSWER
    assert found["prompt_tokens"] == replayed["prompt_tokens"] == REQUESTS * PROMPT
    server = found["server"]
    assert (server["requests"], server["output_tokens"]) == (REQUESTS, REQUESTS * ANSWER)

    # the server's means are those of /metrics, to rounding
    for key, name in (
        ("ttft_ms", "vllm:time_to_first_token_seconds"),
        ("tpot_ms", "vllm:request_time_per_output_token_seconds"),
        ("e2e_ms", "vllm:e2e_request_latency_seconds"),
    ):
        assert server[key] == pytest.approx(1000 * grown[f"{name}_sum"] / grown[f"{name}_count"], rel=1e-6)

    # percentiles: the profile's median lies in its bucket of /metrics; the clients' are larger, the median by the way at most
    ours = {q: replayed["measures"][f"ttft_p{q}"]["value"] for q in (50, 99)}
    seen = {q: found["latency"]["ttft"][f"p{q}"] for q in (50, 99)}
    low, high = bounds(grown, "vllm:time_to_first_token_seconds", 50)
    assert low <= ours[50] <= high
    assert ours[50] - CLOCK_MS <= seen[50] <= ours[50] + WAY_MS
    assert ours[99] - CLOCK_MS <= seen[99]
    assert abs(found["latency"]["tpot"]["mean"] - server["tpot_ms"]) <= WAY_MS / (ANSWER - 1)
    assert server["e2e_ms"] - CLOCK_MS <= found["latency"]["e2e"]["mean"] <= server["e2e_ms"] + WAY_MS


def test_what_clients_saw_lies_in_the_profile(served: Served) -> None:
    found = stress(served, "--concurrency", "3", "--requests", "12", "--slo", "ttft=5000")
    with Profile(Path(found["profiles"][0])) as profile:
        attached = json.loads(profile.attachments()[ATTACHMENT])
    assert {**attached, "profiles": found["profiles"]} == found
    assert attached["goodput"]["good"] == 12


def test_a_load_goes_on_where_it_cannot_be_recorded(served: Served, tmp_path: Path) -> None:
    list(served.client.record("t", tmp_path / "mine.mcap", wait=False))
    found = stress(served, "--concurrency", "2", "--requests", "4")
    assert (found["requests"]["ok"], found["profiles"]) == (4, [])
    assert "being recorded already" in found["unrecorded"]
    served.client.stop_recording("t")
    assert stress(served, "--concurrency", "2", "--requests", "4", "--no-record")["unrecorded"] == "not wanted"


def test_a_sweep_measures_refuses_and_restores(served: Served, tmp_path: Path) -> None:
    page = tmp_path / "sweep.html"
    found = stress(
        served, "--sweep", "tp1,ep2,pp2", "--concurrency", "1,4", "--requests", "8", "--duration", "30", "--report", str(page)
    )
    assert [(trial["layout"], len(trial["steps"])) for trial in found["trials"]] == [("tp1", 2), ("ep2", 0), ("pp2", 2)]
    assert "the model has no experts" in found["trials"][1]["why"]
    assert (found["first"], found["unrestored"]) == ("tp2", "")
    assert served.deployment()["layout"] == {"dp": 1, "pp": 1, "ep": 1, "tp": 2}
    for trial in found["trials"]:
        for step in trial["steps"]:
            assert step["requests"]["ok"] == 8
            with Profile(Path(step["profiles"][0])) as profile:
                assert profile.provenance is not None
                layout = {axis: degree for axis, degree in profile.provenance.layout.items() if degree > 1}
                assert layout == {"tp1": {}, "pp2": {"pp": 2}}[trial["layout"]]
    assert "the model has no experts" in page.read_text()


def test_ctrl_c_in_a_sweep_gives_the_first_layout_back(served: Served) -> None:
    process = shardscope(served, "stress", "t", "--sweep", "pp2,tp1", "--concurrency", "2", "--duration", "60", "--json")
    until(lambda: served.deployment()["layout"]["pp"] == 2 and served.deployment()["engine"]["running"] > 0, 30)
    process.send_signal(signal.SIGINT)
    out, words = process.communicate(timeout=40)
    assert process.returncode == 130, words
    found = json.loads(out)
    assert found["interrupted"]
    assert [trial["layout"] for trial in found["trials"]] == ["pp2"]
    assert served.deployment()["layout"] == {"dp": 1, "pp": 1, "ep": 1, "tp": 2}
    assert served.complete()
