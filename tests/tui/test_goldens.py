"""Every screen at three sizes, in colour and without: what is written, the role of each character, its weight in mono.

In a golden three lines are one of the screen: its characters, a letter for the role of each (see `terminal.LETTERS`), and a
letter for its weight when there is no colour.
"""

import re
from itertools import chain

import pytest
from driving import dashboard, reached, settled
from scenes import FAILED, LOADING, STRAGGLER
from terminal import check_golden, escapes, roles, shown, weights

from tui import keys
from tui.app import OVERLAYS, SCREENS
from tui.screens.help import HelpScreen

SIZES = ((80, 24), (120, 40), (200, 60))
LAYOUT = "ep2tp2pp2"
MARKED = 3  # the rank that is late in the script
WEIGHT_ALONE = {"", "0", "1", "2", "7", "39", "49"}  # SGR codes: bold, dim, inverse (scroll bar), the terminal's own colours


def test_every_screen_has_a_key_and_every_key_a_screen():
    assert [name for name, _key in keys.SCREENS] == list(SCREENS)


@pytest.mark.parametrize("at", [LOADING, STRAGGLER, FAILED], ids=["loading", "straggler", "failed"])
async def test_overview(at, request, monkeypatch):
    await check(f"overview-{request.node.callspec.id}", at, None, monkeypatch)


@pytest.mark.parametrize("name", [name for name, _key in keys.SCREENS if name not in ("overview", "profiles")])  # has its own
async def test_screen(name, monkeypatch):
    await check(name, STRAGGLER, f"app.switch_mode('{name}')", monkeypatch)


async def test_events(monkeypatch):
    await check("events", STRAGGLER, "app.overlay('events')", monkeypatch)


async def test_logs(monkeypatch, tmp_path):
    logs = tmp_path / "logs" / "qwen3-30b"
    logs.mkdir(parents=True)
    (logs / "rank-3.log").write_text(
        "=== qwen3-30b generation 1 rank 3\nWARN channel 7 is down\n" + "Error: a long line " * 12 + "\n"
    )
    await check("logs", STRAGGLER, "app.overlay('logs')", monkeypatch, tmp_path)


async def test_help(monkeypatch):
    await check("help", STRAGGLER, "app.help", monkeypatch)


async def check(name, at, action, monkeypatch, run_dir=None):
    coloured = await drawn(name, at, action, run_dir, lambda app: (shown(app), roles(app)))
    monkeypatch.setenv("NO_COLOR", "1")
    mono = await drawn(name, at, action, run_dir, lambda app: (shown(app), weights(app), escapes(app)))
    for size, (lines, letters) in coloured.items():
        grey, heavy, written = mono[size]
        assert grey == lines
        assert {code for codes in re.findall(r"\x1b\[([\d;]*)m", written) for code in codes.split(";")} <= WEIGHT_ALONE
        check_golden(f"screen-{name}-{size[0]}x{size[1]}", chain.from_iterable(zip(lines, letters, heavy, strict=True)))


async def drawn(name, at, action, run_dir, look):
    """What `look` sees of the screen at each size."""
    found = {}
    async with dashboard(at, LAYOUT, SIZES[0], run_dir=run_dir) as (app, pilot):
        app.session.set(rank=MARKED)
        if action:
            await app.run_action(action)
            await reached(app, pilot, HelpScreen if name == "help" else {**SCREENS, **OVERLAYS}[name])
            await settled(app, pilot)
        for size in SIZES:
            await pilot.resize_terminal(*size)
            await pilot.pause(0.06)
            app._redraw()
            await pilot.pause()
            found[size] = look(app)
    return found
