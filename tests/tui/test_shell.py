"""What every screen can: logs, events, copy, maximise, stop, and the word why when something cannot be."""

import base64
import os

import pytest
from driving import dashboard, reached, redrawn
from scenes import FAILED, STRAGGLER
from terminal import escapes, shown

from tui import keys, web
from tui.app import OVERLAYS, SCREENS
from tui.clipboard import MOST_BYTES, clipped
from tui.logs import Logs
from tui.screens.events import EventsScreen
from tui.screens.logs import LogsScreen
from tui.screens.overview import OverviewScreen
from tui.screens.rank import RankScreen
from tui.screens.stop import StopScreen
from tui.session import Session


@pytest.fixture
def run_dir(tmp_path):
    """With the logs of the script's first deployment."""
    logs = tmp_path / "logs" / "qwen3-30b"
    logs.mkdir(parents=True)
    (logs / "engine.log").write_text("engine ready\n")
    for rank in range(4):
        (logs / f"rank-{rank}.log").write_text(f"=== qwen3-30b generation 1 rank {rank}\nWARN nccl channel {rank} down\n")
    return tmp_path


async def notified(app, pilot, words):
    for _ in range(100):
        if any(words in notice.message for notice in app._notifications):
            return
        await pilot.pause(0.02)
    raise AssertionError(f"'{words}' is not among {[notice.message for notice in app._notifications]}")


# logs


async def test_l_shows_all_logs_and_the_brackets_those_of_one_rank(run_dir):
    async with dashboard(run_dir=run_dir) as (app, pilot):
        await pilot.press("l")
        page = "\n".join(await reached(app, pilot, LogsScreen))
        for writer in ("engine", "rank-0", "rank-3"):
            assert f" {writer} " in page
        await pilot.press("right_square_bracket")
        page = "\n".join(await redrawn(app, pilot))
        assert "log of qwen3-30b, rank 0" in page
        assert "channel 0" in page
        assert "channel 1" not in page
        await pilot.press("left_square_bracket", "left_square_bracket")
        assert "channel 3" in "\n".join(await redrawn(app, pilot))
        await pilot.press("escape")
        await reached(app, pilot, OverviewScreen)


async def test_the_log_grows_and_stays_at_the_newest_line_until_scrolled_back(run_dir):
    log = run_dir / "logs" / "qwen3-30b" / "rank-2.log"
    async with dashboard(run_dir=run_dir, size=(80, 24)) as (app, pilot):
        app.session.set(rank=2)
        await pilot.press("2")
        assert "channel 2 down" in "\n".join(await reached(app, pilot, RankScreen)) or app.size.height < 30
        await pilot.press("l")
        await reached(app, pilot, LogsScreen)
        with log.open("a") as file:
            file.writelines(f"line {i}\n" for i in range(100))
        for _ in range(3):
            lines = await redrawn(app, pilot)
        assert "line 99" in lines[-2]
        assert "at the newest" in "\n".join(lines)
        await pilot.press("pageup")
        lines = await redrawn(app, pilot)
        assert "line 89" in lines[-2]
        with log.open("a") as file:
            file.write("one more\n")
        lines = await redrawn(app, pilot)
        assert "line 89" in lines[-2]
        assert "scrolled back" in "\n".join(lines)
        await pilot.press("end")
        for _ in range(3):
            lines = await redrawn(app, pilot)
        assert "one more" in lines[-2]


async def test_slash_filters_the_log(run_dir):
    async with dashboard(run_dir=run_dir) as (app, pilot):
        await pilot.press("l")
        await reached(app, pilot, LogsScreen)
        await pilot.press("slash", *"NCCL", "enter")
        page = "\n".join(await redrawn(app, pilot))
        assert "channel 0" in page
        assert "engine ready" not in page
        await pilot.press("slash", *"zzz", "enter")
        assert "no line holds that" in "\n".join(await redrawn(app, pilot))


async def test_without_a_daemon_there_are_no_logs_and_that_is_said():
    async with dashboard() as (app, pilot):
        await pilot.press("l")
        assert "only a daemon has" in "\n".join(await reached(app, pilot, LogsScreen))


def test_a_log_may_be_cut_replaced_or_huge(tmp_path):
    path = tmp_path / "rank-0.log"
    logs = Logs(tmp_path)
    assert list(logs.lines()) == []
    path.write_text("whole\nhalf")
    assert [line.text for line in logs.lines()] == ["whole"]
    with path.open("a") as file:
        file.write(" of it\n\x1b[31mred\x1b[0m\n")
    assert [line.text for line in logs.lines()] == ["whole", "half of it", "red"]
    path.write_text("cut\n")
    assert logs.lines()[-1].text == "cut"
    fresh = tmp_path / "new"
    fresh.write_text("replaced\n")
    os.replace(fresh, path)
    assert logs.lines()[-1].text == "replaced"
    with path.open("a") as file:
        file.writelines(f"{i:>99}\n" for i in range(20_000))
    lines = logs.lines()
    assert lines[-1].text.strip() == "19999"
    assert any("KiB before this are in" in line.text for line in lines) or len(lines) <= 4000
    assert len(lines) <= 4000


# events


async def test_a_lists_all_events_by_severity_and_filter():
    async with dashboard(FAILED, size=(100, 30)) as (app, pilot):
        await pilot.press("a")
        page = "\n".join(await reached(app, pilot, EventsScreen))
        assert "launch 1" in page
        assert "rank-died" in page
        await pilot.press("s", "s")
        page = "\n".join(await redrawn(app, pilot))
        assert "errors: " in page
        assert "READY after" not in page
        await pilot.press("s", "slash", *"launch 2", "enter")
        page = "\n".join(await redrawn(app, pilot))
        assert "launch 2 after the death" in page
        assert "straggler" not in page
        await pilot.press("a")
        await reached(app, pilot, OverviewScreen)


# around


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_a_number_key_closes_what_lies_over_a_screen(overlay):
    async with dashboard() as (app, pilot):
        await app.run_action(f"app.overlay('{overlay}')")
        await reached(app, pilot, OVERLAYS[overlay])
        await pilot.press("1")
        await reached(app, pilot, OverviewScreen)
        await app.run_action("app.overlay('logs')")
        await app.run_action("app.overlay('events')")
        await reached(app, pilot, EventsScreen)
        assert len(app.screen_stack) == 2


async def test_the_marked_rank_is_opened_and_the_neighbours_are_near():
    async with dashboard(STRAGGLER, size=(80, 24)) as (app, pilot):
        await pilot.press("down", "right")
        marked = [line for line in await redrawn(app, pilot) if "▸" in line]
        assert len(marked) == 1
        assert marked[0].startswith("▸r2 ")
        await pilot.press("enter")
        assert any("── rank 2 " in line for line in await reached(app, pilot, RankScreen))
        await pilot.press("right_square_bracket", "right_square_bracket")
        assert any("── rank 0 " in line for line in await redrawn(app, pilot))
        await pilot.press("left_square_bracket")
        assert any("── rank 3 " in line for line in await redrawn(app, pilot))
        await pilot.press("escape")
        await reached(app, pilot, OverviewScreen)


async def test_a_click_on_a_rank_opens_it():
    async with dashboard(STRAGGLER, size=(80, 24)) as (app, pilot):
        row = next(i for i, line in enumerate(shown(app)) if line.startswith(" r3 "))
        await pilot.click(offset=(1, row))
        assert any("── rank 3 " in line for line in await reached(app, pilot, RankScreen))


async def test_in_the_grid_down_goes_to_the_same_place_of_the_next_stage():
    async with dashboard(layout="tp2pp2", size=(120, 40)) as (app, pilot):
        await pilot.press("right", "down")
        assert app.session.options.rank == 3
        await pilot.press("down", "right", "up")
        assert app.session.options.rank == 1


async def test_c_copies_what_is_out_of_sight_too():
    async with dashboard(layout="tp8pp8", size=(80, 24)) as (app, pilot):
        written = []
        app._driver.write = written.append
        await pilot.press("c")
        await pilot.pause()
        [sequence] = [text for text in written if text.startswith("\x1b]52;c;")]
        text = base64.b64decode(sequence.removeprefix("\x1b]52;c;").removesuffix("\a")).decode()
        assert "r63" in text
        assert text.startswith(" qwen3-30b")
        await notified(app, pilot, "Copied")


def test_the_clipboard_gets_whole_lines_and_no_more_than_terminals_take():
    assert clipped("a\nb\n") == ("a\nb\n", True)
    text, whole = clipped("ä" * 99 + "\n" + ("x" * 999 + "\n") * 100)
    assert not whole
    assert text.endswith("x\n")
    assert MOST_BYTES - 1000 < len(text.encode()) <= MOST_BYTES
    assert clipped("x" * 100_000) == ("", False)


async def test_plus_and_minus_change_how_often_it_is_drawn(monkeypatch):
    """A key draws at once all the same; a replay is drawn as often as ever, and the keys are its speed."""
    async with dashboard(size=(160, 40)) as (app, pilot):
        drawn = []
        frame = app.screen.frame
        monkeypatch.setattr(app.screen, "frame", lambda *size: drawn.append(size) or frame(*size))
        assert "every" not in shown(app)[0]
        await pilot.press("minus", "minus")
        assert "every 1 s  scripted demo" in shown(app)[0]
        assert len(drawn) >= 2
        app.screen.redraw()  # and no timer comes between what follows
        before = len(drawn)
        for _ in range(8):
            app.screen._tick()
        assert len(drawn) - before == 2
        await pilot.press("minus", "minus", "minus")
        assert "every 4 s" in shown(app)[0], "seldomer it gets no more"
        await pilot.press("2")
        assert "every 4 s" in shown(app)[0]
        await pilot.press("plus", "plus", "plus", "plus", "plus")
        assert "every" not in shown(app)[0]
        app.screen._tick()
        assert app.screen._ticks == 0


async def test_z_gives_the_room_of_the_panels_to_the_ranks():
    async with dashboard(layout="tp8pp8", size=(80, 24)) as (app, pilot):
        before = shown(app)
        await pilot.press("z")
        after = await redrawn(app, pilot)
        assert sum(" p" in line and "Gi/" in line for line in after) > sum(" p" in line and "Gi/" in line for line in before)
        assert not any("engine" in line for line in after)
        await pilot.press("z")
        assert await redrawn(app, pilot) == before


async def test_a_picture_that_cannot_be_saved_is_told(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    async with dashboard() as (app, pilot):
        await pilot.press("ctrl+s")
        await notified(app, pilot, "No picture")


async def test_ctrl_c_leaves():
    async with dashboard() as (app, pilot):
        await pilot.press("ctrl+c")
        await pilot.pause()
        assert not app.is_running


# the remedy


@pytest.mark.parametrize("way", ["key", "click"])
async def test_the_remedy_of_the_verdict_is_taken_to_deploy(way, monkeypatch):
    taken = []

    async def opened(app, fields):
        taken.append(fields)

    monkeypatch.setattr("tui.app.Dashboard.open_deploy", opened)
    async with dashboard(98, size=(120, 40)) as (app, pilot):
        lines = shown(app)
        row = next(i for i, line in enumerate(lines) if line.endswith("[d]"))
        assert "KV is full" in "".join(lines[2 : row + 1])
        if way == "key":
            await pilot.press("d")
        else:
            await pilot.click(offset=(lines[row].index("[d]") + 1, row))
        assert taken == [{"max_num_seqs": 48}]


async def test_where_no_setting_helps_no_key_is_offered_and_deploy_opens_empty():
    async with dashboard(STRAGGLER, size=(120, 40)) as (app, pilot):
        assert not any("[d]" in line for line in shown(app))
        await pilot.press("d")
        await reached(app, pilot, SCREENS["deploy"])
        assert app.session.proposal == {}


# what is off


async def test_a_replay_has_nothing_to_stop_and_says_so():
    async with dashboard(size=(300, 40)) as (app, pilot):
        assert "(K stop)" in shown(app)[-1]
        await pilot.press("K")
        await notified(app, pilot, "there is no daemon behind the scripted demo")
        assert isinstance(app.screen, OverviewScreen)


async def test_read_only_greys_what_changes_something_and_says_why(run_dir):
    async with dashboard(size=(300, 40), readonly=True, run_dir=run_dir) as (app, pilot):
        foot = shown(app)[-1]
        for key in keys.APP:
            assert (f"({key.shown} {key.label})" in foot) == bool(key.needs)
        await pilot.press("K")
        await notified(app, pilot, "read-only")
        await pilot.click("#foot", offset=(foot.index("(x stress)") + 1, 0))
        assert isinstance(app.screen, OverviewScreen)
        titles = {command.title: command.help for command in app.get_system_commands(app.screen)}
        assert titles["Stop (K)"].startswith("off: ")


async def test_stop_asks_for_the_name_and_a_wrong_one_stops_nothing(run_dir, monkeypatch):
    asked = []
    monkeypatch.setattr("tui.app.Steering.stop", lambda self, name: asked.append(name))
    async with dashboard(run_dir=run_dir) as (app, pilot):
        await pilot.press("K")
        await reached(app, pilot, StopScreen)
        await pilot.press(*"qwen", "enter")
        await pilot.pause()
        assert any("is not qwen3-30b: nothing was stopped" in line for line in shown(app))
        await pilot.press("escape")
        await reached(app, pilot, OverviewScreen)
        assert asked == []
        await pilot.press("K")
        await reached(app, pilot, StopScreen)
        await pilot.press(*"qwen3-30b", "enter")
        await reached(app, pilot, OverviewScreen)
        assert asked == ["qwen3-30b"]


async def test_a_daemon_that_is_gone_is_told_when_stopping(run_dir):
    async with dashboard(run_dir=run_dir) as (app, pilot):
        app._stop("qwen3-30b")
        await notified(app, pilot, "was not stopped: no daemon runs in")


def test_need_of_steering_and_of_writing():
    class Named:
        name = "replay"

    looking = Session(Named(), readonly=True)
    assert "read-only" in looking.obstacle(keys.WRITE)
    assert "read-only" in looking.obstacle(keys.STEER)
    replaying = Session(Named())
    assert replaying.obstacle(keys.WRITE) == ""
    assert "no daemon behind the replay" in replaying.obstacle(keys.STEER)


# web


def test_web_stays_on_this_machine_unless_read_only(tmp_path):
    with pytest.raises(web.Exposed, match="ssh -L"):
        web.serve("0.0.0.0", 8001, False, lambda: tmp_path, print)
    with pytest.raises(web.Exposed):
        web.serve("example.org", 8001, False, lambda: tmp_path, print)
    assert all(web.loopback(host) for host in ("127.0.0.1", "::1", "localhost"))


def test_web_without_its_package_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "textual_serve.server", None)
    with pytest.raises(web.MissingPackage, match=r"pip install 'shardscope\[web\]'"):
        web.serve("127.0.0.1", 8001, False, lambda: tmp_path, print)


def test_every_mode_is_a_screen():
    assert set(SCREENS) == {name for name, _key in keys.SCREENS}


async def test_what_can_be_clicked_lights_up_under_the_mouse():
    async with dashboard() as (app, pilot):
        row = len(shown(app)) - 1
        before = escapes(app)
        await pilot.hover(offset=(shown(app)[row].index("pause") + 1, row))
        await pilot.pause()
        lit = escapes(app)
        assert lit != before
        await pilot.hover(offset=(1, 5))
        await pilot.pause()
        assert escapes(app) == before
