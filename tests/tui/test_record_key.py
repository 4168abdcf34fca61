"""The key that records: a real daemon's deployment, and what a dashboard says of it."""

import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from driving import dashboard, redrawn
from terminal import shown

from profiles.measures import measure
from profiles.reader import Profile
from profiles.report import RecordingProgress, RecordingReport
from runtime.background import DaemonProcess
from runtime.spec import DeploymentSpec
from telemetry.endpoints import HubEndpoints
from tui.app import Dashboard
from tui.recording import Recordings
from tui.source import LiveSource
from tui.steering import Order, Told


@pytest.fixture(scope="module")
def daemon(make_checkpoint):
    with tempfile.TemporaryDirectory(prefix="shardscope-test-") as directory:
        run_dir, model = Path(directory), make_checkpoint("llama")
        with DaemonProcess(run_dir, "127.0.0.1:0") as running, running.client() as client:
            for _ in client.deploy(DeploymentSpec.model_validate({"model": model, "name": "t", "tp": 2})):
                pass
            yield running


@asynccontextmanager
async def live(daemon, readonly=False):
    run_dir = daemon.run_dir.path
    app = Dashboard(LiveSource(HubEndpoints.under(run_dir)), readonly, run_dir)
    async with app.run_test(size=(120, 40)) as pilot:
        await said(app, pilot, lambda lines: "READY" in lines[0])
        yield app, pilot


async def said(app, pilot, true):
    for _ in range(400):
        lines = await redrawn(app, pilot)
        if true(lines):
            return lines
        await pilot.pause(0.05)
    raise AssertionError("\n".join(shown(app)))


def toasts(app):
    return [str(each.message) for each in app._notifications]


def files(daemon):
    return sorted(daemon.run_dir.profiles.glob("*"))


async def test_r_records_and_r_ends_it(daemon):
    async with live(daemon) as (app, pilot):
        await pilot.press("r")
        await said(app, pilot, lambda lines: "REC" in lines[0])
        assert any(words.startswith("recording t to") for words in toasts(app))
        [part] = files(daemon)
        assert part.name.startswith("t-20")
        assert part.name.endswith(".mcap.part")
        await pilot.press("r")
        await said(app, pilot, lambda lines: "REC" not in lines[0])
        [whole] = files(daemon)
        with Profile(whole) as profile:
            assert profile.complete
            assert profile.provenance.deployment == "t"
            assert measure(profile).lost == 0
        assert sum(words.startswith("recorded") for words in toasts(app)) == 1
        whole.unlink()


async def test_a_closed_screen_ends_no_recording_and_the_next_one_sees_it(daemon):
    async with live(daemon) as (app, pilot):
        await pilot.press("r")
        await said(app, pilot, lambda lines: "REC" in lines[0])
    with daemon.client() as client:
        assert [each.deployment for each in client.recordings()] == ["t"]
    async with live(daemon) as (app, pilot):
        await said(app, pilot, lambda lines: "REC" in lines[0])
        await pilot.press("r")
        await said(app, pilot, lambda lines: "REC" not in lines[0])
        await said(app, pilot, lambda lines: any(words.startswith("recorded") for words in toasts(app)))
    [whole] = files(daemon)
    with Profile(whole) as profile:
        assert profile.complete
    whole.unlink()


async def test_a_readonly_dashboard_records_nothing(daemon):
    async with live(daemon, readonly=True) as (app, pilot):
        await pilot.press("r")
        await said(app, pilot, lambda lines: any("read-only" in words for words in toasts(app)))
        assert files(daemon) == []
        with daemon.client() as client:
            assert client.recordings() == []


async def test_without_a_daemon_the_key_says_why():
    async with dashboard() as (app, pilot):
        await pilot.press("r")
        await said(app, pilot, lambda lines: any("no daemon behind the scripted demo" in words for words in toasts(app)))


async def test_line_1_names_the_size(tmp_path):
    async with dashboard(run_dir=tmp_path) as (app, pilot):
        name = app.session.source.latest().deployments[0].name
        app.session.recordings.under_way = {name: RecordingProgress(name, "/x", 3_250_586, 4.0)}
        assert "● REC 3.1Mi" in (await redrawn(app, pilot))[0]
        await pilot.resize_terminal(60, 20)
        assert "REC 3.1Mi" in (await redrawn(app, pilot))[0]


def report(error=""):
    return RecordingReport("t", ["/x.mcap"], 10, 1000, 4.0, 0, error, "/x.mcap.part" if error else "")


def test_an_end_is_told_once_whoever_brought_it_about(tmp_path):
    stopped, ended = Told(Order("stop recording", "t"), report()), Told(Order("record", "t"), report())
    for first, second in ((stopped, ended), (ended, stopped)):
        mine = Recordings(tmp_path)
        assert mine.said(first)[0].startswith("recorded 4 s")
        assert mine.said(second) == ("", False)
    full = Told(Order("record", "t"), report("No space left on device"))
    assert mine.said(full) == ("recording stopped: No space left on device; what is whole in /x.mcap.part can be recovered", True)
    assert mine.said(Told(Order("record", "t"), error="'t' is being recorded already", over=True))[1]
    assert mine.said(Told(Order("deploy", "t"), error="no")) == ("", False)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "profiles").write_text("a file")
    assert str(tmp_path / "profiles") in Recordings(tmp_path).toggle(None, "t")
