"""Replays on the dashboard: the shipped samples under every screen, steered by keys and mouse."""

from contextlib import asynccontextmanager
from itertools import chain

import pytest
from driving import dashboard, reached, redrawn
from terminal import check_golden, roles, shown, weights

from profiles.listing import SAMPLES
from profiles.player import Player
from profiles.reader import Profile
from profiles.replay import ReplaySource, Tick
from telemetry.records import EventRecord
from tui.app import SCREENS, Dashboard
from tui.screens.asking import AskScreen
from tui.screens.overview import OverviewScreen
from tui.widgets.seekbar import SeekBar


class Hand:
    def __init__(self):
        self.s = 100.0

    def __call__(self):
        return self.s


@asynccontextmanager
async def replayed(name="tp4", size=(100, 40)):
    """A dashboard on a sample whose clock only the test moves. It begins playing, at the beginning."""
    hand = Hand()
    source = ReplaySource(Profile(SAMPLES / f"{name}.mcap"), hand)
    app = Dashboard(source)
    app.hand, app.replay = hand, source
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        yield app, pilot


async def at(app, pilot, moment):
    """The screen once the replay's thread has come to that moment."""
    time_ns = app.replay._profile.start_ns + round(moment * 1e9)
    for _ in range(500):
        if app.replay.latest() and app.replay.latest().time_ns == time_ns:
            return await redrawn(app, pilot)
        await pilot.pause(0.02)
    raise AssertionError(f"the replay is at {app.replay.latest().time_ns - time_ns} ns of {moment} s")


async def test_space_plays_and_stands_still():
    async with replayed() as (app, pilot):
        app.hand.s += 2
        lines = await at(app, pilot, 2.0)
        assert "REPLAY" in lines[-3]
        assert "|>" in lines[-3]
        assert "00:00:02.0" in lines[-3]
        await pilot.press("space")
        app.hand.s += 50
        assert "||  1x  00:00:02.0" in (await at(app, pilot, 2.0))[-3]
        await pilot.press("space")
        app.hand.s += 1
        await at(app, pilot, 3.0)


async def test_it_never_says_live_and_stands_in_its_own_time():
    async with replayed() as (app, pilot):
        lines = await at(app, pilot, 0.0)
        assert "replay tp4.mcap" in lines[0]
        assert not any("live" in line.lower() for line in lines)


async def test_every_key_goes_where_it_says():
    async with replayed("pp4") as (app, pilot):
        await pilot.press("2")  # a rank's screen has brackets of its own; the others' do not
        await pilot.press("1", "v", "v", "right_square_bracket")
        assert not app.replay.playing
        await at(app, pilot, 0.25)
        await pilot.press("full_stop")
        await at(app, pilot, 10.25)
        await pilot.press("left_square_bracket", "left_square_bracket", "comma")
        await at(app, pilot, 0.0)
        await pilot.press("end")
        await at(app, pilot, app.replay.seconds)
        await pilot.press("home")
        await at(app, pilot, 0.0)
        await pilot.press("plus", "plus")
        assert "4x" in (await redrawn(app, pilot))[-3]
        await pilot.press("minus", "minus", "minus")
        assert "0.5x" in (await redrawn(app, pilot))[-3]


async def test_g_goes_to_a_time_that_is_typed():
    async with replayed() as (app, pilot):
        await pilot.press("space", "g")
        await reached(app, pilot, AskScreen)
        await pilot.press(*"x1", "enter")
        await pilot.pause()
        assert "write MM:SS" in "\n".join(shown(app))
        await pilot.press("backspace", "backspace", *"9:59", "enter")
        await pilot.pause()
        assert "ends at" in "\n".join(shown(app))
        for _ in range(4):
            await pilot.press("backspace")
        await pilot.press(*"0:07", "enter")
        await reached(app, pilot, OverviewScreen)
        assert "00:00:07.0" in (await at(app, pilot, 7.0))[-3]
        await pilot.press("g", "escape")
        await at(app, pilot, 7.0)


async def test_a_click_or_a_drag_on_the_bar_seeks():
    async with replayed() as (app, pilot):
        await pilot.press("space")
        bar = app.screen.query_one(SeekBar)
        await pilot.click(bar, offset=(2 + round(97 / 2) - 1, 1))
        await pilot.pause()
        assert app.replay.moment == pytest.approx(app.replay.seconds / 2, abs=0.3)
        await pilot.mouse_down(bar, offset=(10, 1))
        await pilot.hover(bar, offset=(40, 1))
        await pilot.hover(bar, offset=(98, 1))
        await pilot.mouse_up(bar, offset=(98, 1))
        await pilot.pause()
        await at(app, pilot, app.replay.seconds)


async def test_m_marks_and_the_next_event_is_a_key_away():
    async with replayed() as (app, pilot):
        await pilot.press("space", "full_stop", "m")
        lines = await at(app, pilot, 10.0)
        await pilot.press("comma")
        lines = await at(app, pilot, 0.0)
        assert "m" in lines[-2]
        await pilot.press("greater_than_sign")
        for _ in range(20):
            if app.replay.moment == 10.0:
                break
            await pilot.press("greater_than_sign")  # events of the recording may lie before
        await at(app, pilot, 10.0)


@pytest.mark.parametrize("name", sorted(SCREENS))
async def test_the_screens_show_what_was_then_on_every_screen(name):
    async with replayed("ep4") as (app, pilot):
        await app.run_action(f"app.switch_mode('{name}')")
        await reached(app, pilot, SCREENS[name])
        await pilot.press("space")
        app.replay.seek(12.0)
        lines = await at(app, pilot, 12.0)
        assert "REPLAY" in lines[-3]
        assert "00:00:12.0" in lines[-3]
        with Profile(SAMPLES / "ep4.mcap") as profile:
            expected = Player(profile).at(profile.start_ns + 12 * 10**9)
        assert app.session.look()[0] == expected


async def test_a_replay_steers_no_daemon(tmp_path):
    async with dashboard(run_dir=tmp_path) as (app, pilot):
        assert app.session.obstacle("steer") == ""
        app.session.enter(ReplaySource(Profile(SAMPLES / "tp4.mcap"), Hand()))
        lines = await redrawn(app, pilot)
        assert "REPLAY" in lines[-3]
        assert "replay tp4.mcap" in app.session.obstacle("steer")
        assert app.session.log("tp4") is None
        await pilot.press("L")
        lines = await redrawn(app, pilot)
        assert "scripted demo" in lines[0]
        assert not any("REPLAY" in line for line in lines)
        assert app.session.run_dir == tmp_path


async def test_one_that_was_opened_by_itself_has_nothing_behind_it():
    async with replayed() as (app, pilot):
        assert "L leave" not in (await at(app, pilot, 0.0))[-1]
        await pilot.press("L")
        assert app.session.replay is app.replay


async def test_every_size_draws():
    async with replayed("tp4", (1, 1)) as (app, pilot):
        for size in ((1, 1), (3, 9), (300, 1), (20, 6), (80, 24), (300, 100), (81, 11)):
            await pilot.resize_terminal(*size)
            await pilot.pause(0.06)
            lines = await redrawn(app, pilot)
            assert len(lines) == size[1]
            assert any("REPLAY" in line for line in lines) == (size[0] >= 20 and size[1] >= 6)


async def test_keys_of_a_replay_are_off_without_one():
    async with dashboard() as (app, pilot):
        before = await redrawn(app, pilot)
        await pilot.press("g", "m", "comma", "less_than_sign", "L", "plus")
        assert await redrawn(app, pilot) == before
        assert not any("go to" in key.label for key in app.screen.all_keys())


@pytest.mark.parametrize("mono", [False, True], ids=["colour", "mono"])
async def test_goldens_of_the_transport(monkeypatch, mono):
    """The lines under the screen: controls, the bar with what happened, keys."""
    if mono:
        monkeypatch.setenv("NO_COLOR", "1")
    look = weights if mono else roles
    async with replayed("tp4") as (app, pilot):
        await pilot.press("space", "plus")
        app.replay.seek(8.0)
        await at(app, pilot, 8.0)
        happened = (
            (1.0, "info", "launch"),
            (4.0, "info", "reconfigure"),
            (7.5, "warning", "straggler"),
            (15.0, "error", "rank-died"),
        )
        app.replay.ticks = tuple(
            Tick(moment, EventRecord("tp4", 1, 0, severity, kind, f"words of a {kind}")) for moment, severity, kind in happened
        )
        app.replay.marks = (11.0,)
        app.replay._clock.seconds = 20.0  # the sample's own length changes when it is recorded again
        for size in ((80, 24), (120, 40), (200, 60)):
            await pilot.resize_terminal(*size)
            await pilot.pause(0.06)
            lines = await redrawn(app, pilot)
            golden = f"transport-{'mono' if mono else 'colour'}-{size[0]}x{size[1]}"
            check_golden(golden, chain.from_iterable(zip(lines[-3:-1], look(app)[-3:-1], strict=True)))
