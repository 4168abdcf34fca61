"""The dashboard driven by its keys, on the scripted source with a clock that stands where the test puts it."""

from contextlib import asynccontextmanager

from scenes import STEADY
from terminal import shown

from runtime.layout import Layout
from tui.app import Dashboard
from tui.demo import DemoSource

JUDGING = ("judge", "plan", "completions", "specs", "remember", "compare")  # groups of workers


class Clock:
    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now


@asynccontextmanager
async def dashboard(at=STEADY, layout="tp2pp2", size=(100, 40), readonly=False, run_dir=None, keymap=None):
    clock = Clock(at)
    app = Dashboard(DemoSource(Layout.parse(layout), clock), readonly, run_dir, keymap)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        app.clock = clock
        yield app, pilot


async def redrawn(app, pilot):
    app.screen.redraw()
    await pilot.pause()
    return shown(app)


async def settled(app, pilot):
    """Once nothing is judged or read any more."""
    for _ in range(500):
        await pilot.pause()
        if not any(worker.is_running for worker in app.workers if worker.group in JUDGING):
            await pilot.pause()
            return
        await pilot.pause(0.01)
    raise AssertionError("something is judged for ever")


async def reached(app, pilot, screen):
    """The screen of that class, once it is shown."""
    for _ in range(200):
        if isinstance(app.screen, screen) and app.screen.is_mounted:
            await pilot.pause()
            return await redrawn(app, pilot) if hasattr(app.screen, "redraw") else shown(app)
        await pilot.pause(0.02)
    raise AssertionError(f"{type(app.screen).__name__} is shown instead of {screen.__name__}")
