"""Orders to the daemon: what comes of them arrives as messages, and nothing that the daemon does holds up the screen."""

import threading
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual.app import App

import runtime.client
from runtime.client import ControlClient, DaemonError, GivenUp
from runtime.control import Changed, Outcome, Progress
from tui.demo import DemoSource
from tui.session import Session
from tui.steering import Order, Steering, Told, refusal


class Asked(App[None]):
    """Keeps what it is told."""

    def __init__(self, run_dir):
        super().__init__()
        self.run_dir = run_dir
        self.told = []
        self.heard = 0

    def on_told(self, told: Told) -> None:
        self.told.append(told)

    def key_x(self) -> None:
        self.heard += 1


@asynccontextmanager
async def asked(run_dir=Path("/nowhere")):
    app = Asked(run_dir)
    async with app.run_test() as pilot:
        yield app, Steering(app, app.run_dir), pilot


async def over(app, pilot):
    await app.workers.wait_for_complete([worker for worker in app.workers if not worker.is_cancelled])
    await pilot.pause()
    return app.told


class Scripted(ControlClient):
    """Says what the test has put into `script`, waits at its events, and is given up as a real one."""

    script = ()
    closed = threading.Event()

    def __init__(self, run_dir, given_up):
        self._given_up = given_up

    def close(self):
        self.closed.set()

    def _play(self):
        for each in self.script:
            if isinstance(each, Exception):
                raise each
            if isinstance(each, threading.Event):
                while not each.wait(0.01):
                    if self._given_up():
                        raise GivenUp
            else:
                yield each

    def reconfigure(self, name, fields):
        self.asked = name, fields
        return self._play()

    def stop(self, name, now=False):
        list(self._play())


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(runtime.client, "ControlClient", Scripted)
    monkeypatch.setattr(Scripted, "closed", threading.Event())

    def script(*said):
        monkeypatch.setattr(Scripted, "script", said)

    return script


PROGRESS = Progress("RECONFIGURING", 2, "load", 0.5)
CHANGED = Changed("t", Outcome.CHANGED, {"dp": 1, "pp": 2, "ep": 1, "tp": 1}, {"pp": (1, 2)}, [], 0.5)


async def test_news_comes_in_order_and_then_the_end(scripted):
    scripted(PROGRESS, CHANGED)
    async with asked() as (app, steering, pilot):
        order = steering.reconfigure("t", {"pp": 2})
        told = await over(app, pilot)
    assert order == Order("reconfigure", "t")
    assert [(each.order, each.news, each.error, each.over) for each in told] == [
        (order, PROGRESS, "", False),
        (order, CHANGED, "", False),
        (order, None, "", True),
    ]


async def test_what_cannot_be_is_told_as_the_daemon_says_it(scripted):
    scripted(DaemonError("layout tp3 is impossible", usage=True))
    async with asked() as (app, steering, pilot):
        steering.reconfigure("t", {"tp": 3})
        [told] = await over(app, pilot)
    assert (told.error, told.usage, told.over) == ("layout tp3 is impossible", True, True)


async def test_a_fault_of_ours_is_told_too(scripted):
    scripted(KeyError("x"))
    async with asked() as (app, steering, pilot):
        steering.stop("t")
        [told] = await over(app, pilot)
    assert told.error == "KeyError: 'x'"


async def test_a_daemon_that_is_gone_gives_words(tmp_path):
    async with asked(tmp_path) as (app, steering, pilot):
        for give in (steering.stop, lambda name: steering.deploy({"model": "/nowhere", "name": name}), steering.stop_recording):
            give("t")
        told = await over(app, pilot)
    assert [each.error for each in told] == [f"no daemon runs in {tmp_path}: start one with `shardscope daemon`"] * 3


async def test_the_screen_answers_while_the_daemon_does_not_and_quitting_waits_for_nobody(scripted):
    never = threading.Event()
    scripted(PROGRESS, never)
    async with asked() as (app, steering, pilot):
        steering.reconfigure("t", {"pp": 2})
        await pilot.press("x", "x")
        assert app.heard == 2
    assert not any(each.over for each in app.told)
    assert Scripted.closed.wait(5)


async def test_the_same_order_again_replaces_the_wait_for_the_first(scripted):
    held = threading.Event()
    scripted(held, CHANGED)
    async with asked() as (app, steering, pilot):
        steering.reconfigure("t", {"pp": 2})
        steering.reconfigure("t", {"pp": 4})
        steering.reconfigure("u", {"pp": 2})  # another deployment's is another order
        held.set()
        told = await over(app, pilot)
    assert sorted(each.order.name for each in told if each.over) == ["t", "u"]


def test_who_cannot_steer_is_told_why(tmp_path):
    source = DemoSource()
    assert refusal(Session(source, run_dir=tmp_path)) == ""
    assert "read-only" in refusal(Session(source, readonly=True, run_dir=tmp_path))
    assert "no daemon behind the scripted demo" in refusal(Session(source))
