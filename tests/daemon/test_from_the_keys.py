"""Deployments launched, changed and stopped by the dashboard's keys, on a real daemon; and dashboards that end in the middle."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from served import Served, until
from textual.pilot import Pilot
from under_load import STREAMS, Birth, Load, commit, pids

from runtime.rank.faults import Fault
from telemetry.endpoints import HubEndpoints
from tui import checkpoints
from tui.app import Dashboard
from tui.screens.confirm import ConfirmScreen
from tui.screens.deploy import DeployScreen
from tui.screens.stop import StopScreen
from tui.source import LiveSource

sys.path.insert(0, str(Path(__file__).parents[1] / "tui"))
from terminal import shown

PATIENCE_S = 60.0
LIMITS = {"dtype": "float32", "max_model_len": 512, "max_num_seqs": STREAMS}
NAMES = {"/": "slash", "-": "minus", "_": "underscore", ".": "full_stop"}


@pytest.fixture
def served(daemon: Served, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Served:
    """It serves tp2, whatever the test before has left."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for each in daemon.status()["deployments"]:
        if each["state"] != "STOPPED":
            daemon.client.stop(each["name"], now=True)
    daemon.deploy(model, **LIMITS)
    return daemon


@asynccontextmanager
async def dashboard(served: Served) -> AsyncIterator[tuple[Dashboard, Pilot]]:
    place = served.process.run_dir.path
    app = Dashboard(LiveSource(HubEndpoints.under(place)), run_dir=place)
    async with app.run_test(size=(120, 40)) as pilot:
        yield app, pilot


async def seen(app: Dashboard, pilot: Pilot, there: Callable[[str], object]) -> str:
    """The screen's text once it is as wanted."""
    text = ""
    for _ in range(round(PATIENCE_S / 0.05)):
        text = "\n".join(shown(app))
        if there(text):
            return text
        await pilot.pause(0.05)
    raise AssertionError(f"it did not come to be:\n{text}")


async def deploy_screen(app: Dashboard, pilot: Pilot) -> DeployScreen:
    """Shown, and with the spec of what runs."""
    await pilot.press("6")
    await seen(app, pilot, lambda text: isinstance(app.screen, DeployScreen) and "memory a rank" in text)
    assert isinstance(app.screen, DeployScreen)
    return app.screen


async def mark(screen: DeployScreen, pilot: Pilot, field: str) -> None:
    steps = [each.name for each in screen.form.fields].index(field) - screen.form.at
    await pilot.press(*["down" if steps > 0 else "up"] * abs(steps))


async def fill(screen: DeployScreen, pilot: Pilot, **fields: object) -> None:
    for field, value in fields.items():
        await mark(screen, pilot, field)
        await pilot.press("enter", "ctrl+u", *(NAMES.get(each, each) for each in str(value)), "enter")


async def confirm(app: Dashboard, pilot: Pilot) -> str:
    """The question as one line, wherever it was broken; then yes."""
    await pilot.press("d")
    question = await seen(app, pilot, lambda text: isinstance(app.screen, ConfirmScreen) and "do it" in text)
    await pilot.press("y")
    framed = (line.split("│") for line in question.splitlines())
    return " ".join(" ".join(parts[-2] for parts in framed if len(parts) > 1).split())


async def test_a_launch(daemon: Served, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(model.parent)
    async with dashboard(daemon) as (app, pilot):
        screen = await deploy_screen(app, pilot)
        if any(each["name"] == "t" for each in daemon.status()["deployments"] if each["state"] == "READY"):
            await pilot.press("n")
        await fill(screen, pilot, model=model.name, name="keys", max_model_len=128, max_num_seqs=4)
        await mark(screen, pilot, "tp")
        await pilot.press("right")
        text = await seen(app, pilot, lambda text: "starts 2 ranks as 'keys'" in text and "✓ fits" in text)
        promised = re.search(r"KV ([\d,]+) tokens", text)[1]
        question = await confirm(app, pilot)
        assert "Deploy 'keys'?" in question
        assert "--name keys" in question
        assert "--tp 2 --max-model-len 128 --max-num-seqs 4" in question
        await seen(app, pilot, lambda text: "'keys' serves" in text)
        found = next(each for each in daemon.status()["deployments"] if each["name"] == "keys")
        assert (found["state"], found["layout"]["tp"]) == ("READY", 2)
        assert checkpoints.recent() == [str(model)]
        # the cache that the screen promised: all blocks but the one that belongs to nobody
        await seen(app, pilot, lambda _text: app.session.look()[0].deployments[-1].engine.kv_total)
        view = next(each for each in app.session.look()[0].deployments if each.name == "keys")
        assert int(promised.replace(",", "")) == pytest.approx(16 * view.engine.kv_total, abs=16)
        await seen(app, pilot, lambda text: "nothing: keys serves under these already" in text)


async def test_a_reconfiguration_while_streams_run_and_a_stop(served: Served) -> None:
    generation = served.deployment()["generation"]
    undisturbed = Load(served).ends()
    async with dashboard(served) as (app, pilot):
        screen = await deploy_screen(app, pilot)
        await seen(app, pilot, lambda text: "t serves under these already" in text and "float32" in text)
        assert screen.form.values["max_model_len"] == "512"
        load = Load(served)
        await mark(screen, pilot, "tp")
        await pilot.press("left", "down", "right")
        await seen(app, pilot, lambda text: "tp 2 -> 1" in text and "pp 1 -> 2" in text)
        question = await confirm(app, pilot)
        assert "2 ranks end, 2 start as generation" in question
        await seen(app, pilot, lambda text: "'t' serves pp2 after a pause of" in text)
        assert load.ends() == undisturbed
        assert served.deployment()["generation"] == generation + 1
        await seen(app, pilot, lambda _text: (screen.form.values["tp"], screen.form.values["pp"]) == ("1", "2"))
        await seen(app, pilot, lambda text: "t serves under these already" in text)
        await pilot.press("K")
        await seen(app, pilot, lambda _text: isinstance(app.screen, StopScreen))
        await pilot.press("t", "enter")
        await seen(app, pilot, lambda _text: served.deployment()["state"] == "STOPPED")


async def test_what_is_rolled_back_is_told_with_its_cause(served: Served) -> None:
    async with dashboard(served) as (app, pilot):
        screen = await deploy_screen(app, pilot)
        await seen(app, pilot, lambda text: "t serves under these already" in text)
        await fill(screen, pilot, kv_cache_bytes="1")
        await seen(app, pilot, lambda text: "it does not fit" in text)
        await confirm(app, pilot)
        text = await seen(app, pilot, lambda text: "Rolled back: 't' serves tp2 as before" in " ".join(text.split()))
        assert "KV memory for 0 tokens" in " ".join(text.split())
        assert " back: ✓ stop" in text
        assert screen.form.values["kv_cache_bytes"] == "1"  # to be mended
    assert served.complete()


async def test_a_dashboard_that_is_left_in_the_middle(served: Served) -> None:
    generation, load = served.deployment()["generation"], Load(served)
    async with dashboard(served) as (app, pilot):
        screen = await deploy_screen(app, pilot)
        await seen(app, pilot, lambda text: "t serves under these already" in text)
        await mark(screen, pilot, "tp")
        commit(pids(served)[0], 2, Fault.SLOW, 0.3)  # the drain takes a moment
        await pilot.press("left")
        await seen(app, pilot, lambda text: "tp 2 -> 1" in text)
        await confirm(app, pilot)
        await seen(app, pilot, lambda text: "drain" in text)
    until(lambda: (served.deployment()["state"], served.deployment()["generation"]) == ("READY", generation + 1), 30)
    assert all(load.ends())


class Terminal:
    """A dashboard on a terminal of its own, as a user has it."""

    def __init__(self, run_dir: Path) -> None:
        self._ours, theirs = pty.openpty()
        import fcntl
        import struct
        import termios

        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        command = [sys.executable, "-m", "shardscope", "--run-dir", str(run_dir)]
        environment = {**os.environ, "TERM": "xterm-256color", "TEXTUAL_ANIMATIONS": "none"}
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self._said, self._more = b"", threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def press(self, keys: str) -> None:
        self._said = b""
        os.write(self._ours, keys.encode())

    def says(self, words: str) -> None:
        """Waits until the words were written since the last key."""
        until(lambda: words.encode() in self._said, PATIENCE_S)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        os.close(self._ours)

    def _listen(self) -> None:
        with suppress(OSError, ValueError):
            while True:
                select.select([self._ours], [], [])
                self._said += os.read(self._ours, 65536)


def test_a_dashboard_that_is_killed_in_the_middle(served: Served) -> None:
    generation, load, birth = served.deployment()["generation"], Load(served), Birth(served)
    terminal = Terminal(served.process.run_dir.path)
    try:
        terminal.says("READY")
        terminal.press("6")
        terminal.says("serves under these")
        terminal.press("\x1b[D")  # left: tp 2 -> 1
        terminal.says("tp 2 -> 1")
        terminal.press("d")
        terminal.says("do it")
        terminal.press("y")
        commit(birth.next(), 1, Fault.SLOW, 0.5)  # the warm-up takes a moment
    finally:
        terminal.kill()
    assert served.deployment()["state"] == "RECONFIGURING"
    until(lambda: (served.deployment()["state"], served.deployment()["generation"]) == ("READY", generation + 1), 30)
    assert all(load.ends())
    assert served.deployment()["layout"]["tp"] == 1
