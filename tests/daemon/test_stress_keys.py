"""A real deployment put under load from the dashboard's keys: what the screen shows in the end is what its files say."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from served import Served
from textual.pilot import Pilot

from profiles.measures import measure
from profiles.reader import Profile
from profiles.replay import ReplaySource
from runtime.stress.tape import ATTACHMENT
from telemetry.endpoints import HubEndpoints
from tui.app import Dashboard
from tui.screens.stress import StressScreen
from tui.source import LiveSource
from tui.view.figures import milliseconds, short

sys.path.insert(0, str(Path(__file__).parents[1] / "tui"))
from terminal import shown

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def served(daemon: Served, model: Path) -> Served:
    daemon.deploy(model, max_num_seqs=8)
    return daemon


@asynccontextmanager
async def stress_screen(served: Served) -> AsyncIterator[tuple[Dashboard, Pilot]]:
    app = Dashboard(LiveSource(HubEndpoints.under(served.process.run_dir.path)), run_dir=served.process.run_dir.path)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("x")
        await seen(app, pilot, lambda text: isinstance(app.screen, StressScreen) and "x starts" in text)
        yield app, pilot


async def seen(app: Dashboard, pilot: Pilot, there: Callable[[str], bool]) -> str:
    """The screen's text once it is as wanted."""
    text = ""
    for _ in range(round(PATIENCE_S / 0.1)):
        await pilot.pause(0.1)
        text = "\n".join(shown(app))
        if there(text):
            return text
    raise AssertionError(f"it did not come to be:\n{text}")


async def fill(app: Dashboard, pilot: Pilot, **fields: str) -> None:
    for name, words in fields.items():
        screen = app.screen
        assert isinstance(screen, StressScreen)
        steps = [each.name for each in screen.form.fields].index(name) - screen.form.at
        keys = [{",": "comma", "=": "equals_sign"}.get(each, each) for each in words]
        await pilot.press(*["down" if steps > 0 else "up"] * abs(steps), "enter", "ctrl+u", *keys, "enter")


def files(app: Dashboard) -> tuple[dict, Path]:
    """The JSON, and the profile that it names."""
    text = "\n".join(shown(app))
    path = Path(next(line.split()[1] for line in text.splitlines() if line.startswith(" JSON ")))
    found = json.loads(path.read_text())
    [profile] = found["profiles"]
    assert profile in text
    assert path.with_suffix(".html").exists()
    return found, Path(profile)


async def test_screen_json_and_profile_show_the_same(served: Served) -> None:
    async with stress_screen(served) as (app, pilot):
        load = {"concurrency": "3", "duration": "", "requests": "30", "input_tokens": "24", "output_tokens": "12"}
        await fill(app, pilot, **load, slo="ttft=9999")
        await pilot.press("x")
        text = await seen(app, pilot, lambda text: "✓ OVER" in text)
        found, profile = files(app)
    requests = found["requests"]
    assert (requests["sent"], requests["ok"], found["output_tokens"]) == (30, 30, 360)
    assert "30 sent  30 ok  0 errors" in text
    assert f" {short(found['output_tokens_per_s'])} tok/s" in text
    assert "goodput 100%" in text
    for name, latency in found["latency"].items():
        row = next(line.split() for line in text.splitlines() if line.startswith(f" {name.upper()} "))
        assert row[1:4] == [milliseconds(latency[q]) for q in ("p50", "p90", "p99")]
    with Profile(profile) as recorded:
        told = measure(recorded)
        assert (told.requests, told.output_tokens, told.prompt_tokens) == (30, 360, 720)
        assert {**json.loads(recorded.attachments()[ATTACHMENT]), "profiles": found["profiles"]} == found
    assert f"server: 30 requests, {found['server']['output_tokens']} tokens" in text
    again = Dashboard(ReplaySource(Profile(profile)))
    async with again.run_test(size=(120, 40)) as pilot:
        await pilot.press("7")
        replayed = await seen(again, pilot, lambda text: "✓ OVER" in text)
        figures = [line for line in text.splitlines() if line.startswith((" 30 sent", " TTFT ", " ITL ", " E2E ", " goodput"))]
        assert len(figures) >= 5
        assert set(figures) <= set(replayed.splitlines())


async def test_capital_k_ends_it_and_what_was_measured_is_whole(served: Served) -> None:
    async with stress_screen(served) as (app, pilot):
        await fill(app, pilot, concurrency="2", duration="600", input_tokens="24", output_tokens="12")
        await pilot.press("x")
        await seen(app, pilot, lambda text: "● RUNNING" in text and "● REC" in text and " 0 done" not in text)
        await pilot.press("K")
        text = await seen(app, pilot, lambda text: "✓ OVER" in text)
        found, profile = files(app)
    assert "INTERRUPTED" in text
    assert found["interrupted"]
    with Profile(profile) as recorded:
        assert recorded.complete
        assert measure(recorded).requests >= found["requests"]["ok"] > 0
