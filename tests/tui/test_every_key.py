"""Every key of every table on every screen, at two sizes: it reaches its action or says why not, and nothing breaks."""

import asyncio

import pytest
from driving import dashboard, reached
from scenes import STRAGGLER
from textual import events

from tui.app import OVERLAYS, SCREENS

SMALL, WIDE = (80, 24), (120, 40)
LEAVES = "quit"  # whoever presses it is gone; tested where leaving is
PATIENCE_S = 10.0


@pytest.mark.parametrize("name", [*SCREENS, *OVERLAYS])
async def test_every_key(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a picture is saved
    async with dashboard(STRAGGLER, "ep2tp2pp2", SMALL) as (app, pilot):
        reactions = recorded(app, monkeypatch)
        for size in (SMALL, WIDE):
            await pilot.resize_terminal(*size)
            screen = await opened(app, pilot, name)
            offered = screen.all_keys()
            assert set(screen.usable_keys()) <= set(offered)
            taken = set()
            for key in offered:
                for each in key.key.split(","):
                    if each not in taken and tried(key, name, size):
                        await opened(app, pilot, name)
                        reaction = await pressed(app, each, reactions)
                        assert reaction == (key.off or key.method), f"{each} on {name} at {size}"
                        assert app._exception is None, f"{each} on {name} at {size}"
                    taken.add(each)


def tried(key, name, size):
    """What is the app's own does not depend on the size, and screens are changed the same way everywhere."""
    ours = key.action.startswith("screen.")
    return key.method != LEAVES and (ours or (size == SMALL and (name == "overview" or not key.screen)))


def recorded(app, monkeypatch):
    """What keys lead to: names of actions, and why there is none."""
    reactions = asyncio.Queue()
    dispatch = app._dispatch_action

    async def dispatched(node, action, parameters):
        reactions.put_nowait(action)
        return await dispatch(node, action, parameters)

    monkeypatch.setattr(app, "_dispatch_action", dispatched)
    monkeypatch.setattr(app, "action_explain", reactions.put_nowait)
    return reactions


async def pressed(app, key, reactions):
    """The first reaction."""
    while not reactions.empty():
        reactions.get_nowait()
    app._driver.send_message(events.Key(key, key if len(key) == 1 else None))
    return await asyncio.wait_for(reactions.get(), PATIENCE_S)


async def opened(app, pilot, name):
    """The screen as it was, whatever the last key did."""
    while any(worker.group == "work" and not worker.is_finished for worker in app.workers):
        await pilot.pause(0.02)  # what it comes to
    app.session.leave()  # a replay, say
    wanted = {**SCREENS, **OVERLAYS}[name]
    base = 2 if name in OVERLAYS else 1
    if len(app.screen_stack) != base or type(app.screen) is not wanted:
        await pilot.pause()  # what was opened is there before it goes
        app._close_overlays()
        await app.run_action(f"app.overlay('{name}')" if name in OVERLAYS else f"app.switch_mode('{name}')")
        await reached(app, pilot, wanted)
    if getattr(app.screen, "typing", False):
        leave = getattr(app.screen, "action_leave_field", None) or app.screen.action_clear_filter
        leave()
    app.screen.set_focus(None)
    return app.screen
