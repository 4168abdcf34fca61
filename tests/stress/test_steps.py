"""The knee of made-up curves, the report of made-up results."""

import re
from xml.etree import ElementTree

import msgspec

from runtime.stress.goodput import Slo
from runtime.stress.metrics import goodput, latencies
from runtime.stress.report import as_html
from runtime.stress.result import FaultDone, Generator, Requests, Result, Second, Steps, as_object
from runtime.stress.sample import Sample
from runtime.stress.steps import LARGEST, knee_of, past_the_knee, run_steps
from runtime.stress.table import as_text, knee_line, step_row


def result(concurrency: int = 1, tokens_per_s: float = 100.0, e2e_s: float = 1.0, ok: int = 1) -> Result:
    samples = [Sample(0, 0.0, 0.0, 8, 2, [e2e_s / 2, e2e_s], 2, ended=e2e_s)] * ok
    return Result(
        name="<t>", url="http://127.0.0.1:1", kind="closed loop", load=f"closed loop, {concurrency} at once",
        concurrency=concurrency, input_tokens="8", asked_tokens="2", seed=0, started=0.0, interrupted=False, warmup_s=0.0,
        window_s=e2e_s, requests=Requests(ok, 0, ok, ok, 0, 0, 0), errors={"timeout": 1}, latency=latencies(samples),
        prompt_tokens=8, cached_tokens=0, events=2, output_tokens=2.0, output_tokens_per_s=tokens_per_s, requests_per_s=1.0,
        interactivity=4.0, goodput=goodput(samples, Slo(ttft=500), 1.0), generator=Generator(0.1, 90.0, 0.2, True, "its lag"),
        faults=(FaultDone("t=1 SIGKILL rank=0", 1.0, 7, "killed"),), timeline=(Second(0, 1, 1, 0, 0, 2.0, 500.0, 500.0, None),),
    )  # fmt: skip


def saturating(concurrency: int) -> Result:
    """A server of 8 places, one second each: beyond them requests queue."""
    busy = min(concurrency, 8)
    return result(concurrency, 100.0 * busy, max(1.0, concurrency / 8))


def test_the_knee_is_where_the_places_are_full():
    found = run_steps(None, saturating, lambda _: None)
    assert found.knee == 8
    assert [step.concurrency for step in found.steps] == [1, 2, 4, 8, 16, 32]
    assert run_steps((4, 8, 64), saturating, lambda _: None).knee == 8


def test_steps_without_a_knee_end():
    assert [each.concurrency for each in run_steps(None, lambda c: result(c, 100.0 * c), lambda _: None).steps][-1] == LARGEST
    dead = run_steps(None, lambda c: result(c, 0.0, ok=0), lambda _: None)
    assert (len(dead.steps), dead.knee) == (1, None)
    assert knee_of([]) is None
    assert not past_the_knee([])


def test_an_interrupted_step_is_the_last():
    found = run_steps((1, 2, 4), lambda c: msgspec.structs.replace(saturating(c), interrupted=c == 2), lambda _: None)
    assert (len(found.steps), found.interrupted) == (2, True)


def test_the_json_is_plain_and_comes_back():
    found = result()
    assert msgspec.convert(as_object(found), Result) == found


def test_the_text_tells_what_matters():
    text = as_text(result())
    for words in ("TTFT", "first event - intended send", "BEHIND: its lag", "1 x timeout", "ttft <= 500 ms", "killed"):
        assert words in text
    assert "BEHIND" in step_row(result())
    assert "it is the last step" in knee_line(run_steps((1, 8), saturating, lambda _: None))


def test_the_report_needs_nothing_from_outside():
    for found in (result(), Steps((saturating(1), saturating(8)), 8, "rule", False), Steps((), None, "rule", True)):
        page = as_html(found)
        assert page.startswith("<!doctype html>")
        assert not re.search(r"(src|href)=|url\(|@import|<script", page)
        assert "<t>" not in page
        assert "nan" not in page
        for drawn in re.findall("<svg.*?</svg>", page):
            ElementTree.fromstring(drawn)
