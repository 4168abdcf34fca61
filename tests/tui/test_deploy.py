"""The deploy screen: what is judged as one types, how it is asked for, and what comes of it."""

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from courses import progress
from driving import dashboard, reached, redrawn, settled
from fake_machine import asked, cpu, here, written
from scenes import FEED, STEADY, scene
from terminal import check_golden, shown

from runtime.control import Changed, Outcome, PhaseTime, Progress
from runtime.spec import DeploymentSpec
from tui import checkpoints, keys
from tui.judge import Judge
from tui.screens.confirm import ConfirmScreen
from tui.screens.deploy import DeployScreen
from tui.screens.overview import OverviewScreen
from tui.steering import Order, Told
from tui.view.course import Course
from tui.view.deploy import Desk, command, confirmation, consequences, deploy
from tui.view.form import Form
from tui.view.line import text
from tui.view.options import Options
from tui.view.settings import DEFAULTS, LIVE, NEW, as_text

KEYS = keys.DEPLOY + keys.VIEW + keys.APP


# Words


def desk(judge, small, name="", current=None, **values):
    found = judge.judge(asked(small, **values), current)
    form = Form(LIVE if name else NEW, as_text(current or DEFAULTS)).put(model=str(small), **values)
    return Desk(form, name, "qwen3-30b" if name else "", found)


def test_the_confirmation_says_exactly_what_will_be_done(judge, small):
    anew = desk(judge, small, tp="2")
    page = "\n".join(text(line) for line in confirmation(anew, scene(), 70))
    for words in ("Deploy 'small-1b'?", "starts 2 ranks as 'small-1b'", "of weights", "layout tp2 pp1 ep1 dp1", "cpu, bfloat16"):
        assert words in page
    assert command(anew) == f"shardscope deploy {small} --name small-1b --tp 2"
    current = DeploymentSpec(model=small, name="qwen3-30b", tp=2, pp=2).model_dump(mode="json")
    found = judge.judge({**as_text(current), "tp": "1", "enforce_eager": "yes"}, current)
    change = Desk(Form(LIVE, as_text(current)).put(tp="1"), "qwen3-30b", "qwen3-30b", found)
    assert consequences(change, scene()) == [
        "tp 2 -> 1",
        "enforce_eager no -> yes",
        "4 ranks end, 2 start as generation 2",
        "32 running and 0 waiting requests are kept: they pause, then go on",
        "requests that come meanwhile wait; if anything fails it goes back by itself",
    ]
    assert command(change) == "shardscope reconfigure qwen3-30b --tp 1 --enforce-eager"


# The screen


@asynccontextmanager
async def deploying(monkeypatch, size=(120, 40), machine=None, **how):
    """At the deploy screen, on a machine that is always the same."""
    machine = machine or here(cpu(16))
    monkeypatch.setattr(Judge, "_here", lambda self, elsewhere: machine if elsewhere is None else (machine[0], elsewhere))
    async with dashboard(STEADY, size=size, **how) as (app, pilot):
        await pilot.press("6")
        await reached(app, pilot, DeployScreen)
        await settled(app, pilot)
        yield app, pilot


async def proposed(app, pilot, remedy):
    """By another screen."""
    await app.open_deploy(remedy)
    for _ in range(500):
        if not app.session.proposal:
            break
        await pilot.pause(0.01)
    await settled(app, pilot)


async def page(app, pilot):
    await settled(app, pilot)
    return "\n".join(await redrawn(app, pilot))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 60), (19, 7), (79, 24), (80, 24), (81, 23), (300, 1), (300, 100)])
def test_every_size_draws(judge, small, size):
    every = [desk(judge, small), desk(judge, small, tp="3"), Desk(Form(NEW))]
    running = Course("reconfigure", "t", "tp 2 -> 1").told(progress("load", 1, 0.5, loaded=1, to_load=2))
    every += [Desk(Form(NEW), course=running, found=("/a/b", "/c"), choice=1, obstacle="the dashboard is read-only")]
    for each in every:
        frame = deploy(each, scene(), FEED, Options(), KEYS, *size)
        lines = [*frame.head, *frame.body, *frame.panels, *frame.foot]
        assert all(sum(len(span.text) for span in line) <= size[0] for line in lines)
        assert len(frame.head) + len(frame.panels) + len(frame.foot) <= max(size[1], 1)


async def test_as_one_types_every_key_is_judged(monkeypatch, tmp_path, small):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    async with deploying(monkeypatch, run_dir=tmp_path) as (app, pilot):
        await pilot.press("n", "enter", *"smal")
        seen = await page(app, pilot)
        assert "is not a directory" in seen
        assert "  small-1b" in seen  # a completion
        await pilot.press("tab")
        assert "✓ fits: weights 2.79" in await page(app, pilot)
        await pilot.press("enter", "down", "down", "enter", "backspace", "3")
        assert "tp 3: 32 attention heads do not divide by it" in await page(app, pilot)
        await pilot.press("escape")
        seen = await page(app, pilot)
        assert "✓ fits" in seen
        assert app.screen.form.values["tp"] == "1"
        await pilot.press("right")
        assert "starts 2 ranks as 'small-1b'" in await page(app, pilot)


async def test_completions_are_chosen_with_the_arrows(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "m" / "a"), written(tmp_path / "m" / "b")
    async with deploying(monkeypatch, run_dir=tmp_path) as (app, pilot):
        await pilot.press("n", "enter", "m", "slash")
        await settled(app, pilot)
        await pilot.press("down", "down", "enter")
        assert app.screen.form.values["model"] == "m/b"


async def test_d_with_a_remedy_fills_it_in(monkeypatch, tmp_path):
    async with deploying(monkeypatch, run_dir=tmp_path) as (app, pilot):
        await proposed(app, pilot, {"pp": 1, "tp": 4})
        seen = await page(app, pilot)
        assert "> tp             * 4" in seen
        assert "tp 2 -> 4" in seen
        assert "filled in" in seen
        await pilot.press("R")
        assert "nothing: qwen3-30b serves under these already" in await page(app, pilot)


async def test_f_takes_what_would_make_it_possible(monkeypatch, tmp_path, small):
    async with deploying(monkeypatch, run_dir=tmp_path) as (app, pilot):
        await proposed(app, pilot, {"model": str(small), "tp": 3})
        seen = await page(app, pilot)
        assert "Nearest that work" in seen
        await pilot.press("f")
        assert "✓ fits" in await page(app, pilot)
        assert (app.screen.form.values["tp"], app.screen.form.values["dp"]) == ("1", "3")


async def test_nothing_is_done_before_yes_and_what_is_done_is_told(monkeypatch, tmp_path, small):
    ordered = []
    monkeypatch.setattr(
        "tui.steering.Steering.deploy", lambda self, spec: ordered.append(dict(spec)) or Order("deploy", spec["name"])
    )
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    async with deploying(monkeypatch, run_dir=tmp_path) as (app, pilot):
        await proposed(app, pilot, {"model": str(small), "tp": 2})
        await pilot.press("d")
        await settled(app, pilot)
        await reached(app, pilot, ConfirmScreen)
        assert "Deploy 'small-1b'?" in "\n".join(shown(app))
        await pilot.press("escape")
        await reached(app, pilot, DeployScreen)
        assert ordered == []
        await pilot.press("d")
        await settled(app, pilot)
        await reached(app, pilot, ConfirmScreen)
        await pilot.press("y")
        await reached(app, pilot, DeployScreen)
        [spec] = ordered
        assert (spec["tp"], spec["model"]) == (2, str(small))
        await settled(app, pilot)
        assert checkpoints.recent() == [str(small)]
        order = Order("deploy", "small-1b")
        app.screen.post_message(Told(order, Progress("STARTING", 1, "load", 0.5, 1 << 30, 2 << 30, 1)))
        assert "◐ load 50% 1.0Gi of 2.0Gi" in await page(app, pilot)
        app.screen.post_message(Told(order, error="rank 1 exited with code 1", over=True))
        assert "× rank 1 exited with code 1" in await page(app, pilot)
        await pilot.press("escape")
        assert "× rank 1" not in await page(app, pilot)


async def test_a_failure_is_told_at_another_screen(monkeypatch, tmp_path):
    async with deploying(monkeypatch, run_dir=tmp_path) as (app, pilot):
        screen, order = app.screen, Order("reconfigure", "qwen3-30b")
        screen._orders._begin(order)
        await pilot.press("1")
        await reached(app, pilot, OverviewScreen)
        screen.post_message(Told(order, error="rolled back: no room", over=True))
        await pilot.pause()
        assert [each.message for each in app._notifications] == ["rolled back: no room"]


async def test_a_daemon_that_is_gone_is_told_when_asked(monkeypatch, tmp_path, small):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    async with deploying(monkeypatch, run_dir=tmp_path) as (app, pilot):
        await proposed(app, pilot, {"model": str(small)})
        await pilot.press("d")
        await settled(app, pilot)
        await reached(app, pilot, ConfirmScreen)
        await pilot.press("y")
        await reached(app, pilot, DeployScreen)
        assert "no daemon runs in" in await page(app, pilot)


@pytest.mark.parametrize(
    ("how", "why"),
    [({"readonly": True}, "this dashboard is read-only"), ({}, "there is no daemon behind the scripted demo")],
)
async def test_who_cannot_steer_is_told_why_and_may_still_judge(monkeypatch, how, why):
    async with deploying(monkeypatch, **how) as (app, pilot):
        assert f"not from here: {why}" in await page(app, pilot)
        await pilot.press("d")
        await pilot.pause()
        assert not isinstance(app.screen, ConfirmScreen)
        await pilot.press("right")
        assert "tp 2 -> 4" in await page(app, pilot)


async def test_what_is_impossible_or_changes_nothing_is_not_asked(monkeypatch, tmp_path):
    async with deploying(monkeypatch, run_dir=tmp_path) as (app, pilot):
        for press in ([], ["enter", "backspace", "3", "enter"]):
            await pilot.press(*press, "d")
            await settled(app, pilot)
            await pilot.pause(0.1)
            assert isinstance(app.screen, DeployScreen)


async def test_a_fault_of_the_judge_does_not_end_the_dashboard(monkeypatch, tmp_path):
    async with deploying(monkeypatch, run_dir=tmp_path) as (app, pilot):
        monkeypatch.setattr(Judge, "_model", lambda *_: 1 / 0)
        await pilot.press("right")
        assert "ZeroDivisionError" in await page(app, pilot)


SIZES = ((80, 24), (120, 40), (200, 60))
MODEL = "/models/small-1b"  # the same in every golden, wherever the checkpoint lies


def golden_desk(judge, small, **values):
    found = judge.judge(asked(small, **values))
    wrong = {name: words.replace(str(small), MODEL) for name, words in found.wrong.items()}
    spec = {**found.spec, "model": MODEL} if found.spec else None
    return Desk(Form(NEW, as_text(DEFAULTS)).put(model=MODEL, **values), "", "qwen3-30b", replace(found, wrong=wrong, spec=spec))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_goldens(judge, small, size):
    under_way = Course("reconfigure", "qwen3-30b", "tp 2 -> 4")
    for news in (progress("drain", 23_000), progress("stop", 23_040), progress("spawn", 23_240)):
        under_way = under_way.told(news)
    under_way = under_way.told(progress("load", 23_300, 0.25, loaded=1 << 30, to_load=4 << 30))
    back = "rolling back to tp2pp2: rank 1 was ended by SIGKILL"
    over = under_way.told(progress("stop", 24_000, reason=back)).told(progress("load", 24_100, 0.5, reason=back))
    cause = "rank 1 was ended by SIGKILL"
    phases = [PhaseTime("drain", 0.04), PhaseTime("stop", 0.26), PhaseTime("load", 0.7), PhaseTime("stop", 0.1, True)]
    layout = {"dp": 1, "pp": 2, "ep": 1, "tp": 2}
    over = over.how(Changed("qwen3-30b", Outcome.ROLLED_BACK, layout, {}, phases, 1.1, cause)).ended(cause)
    fine = golden_desk(judge, small, tp="2")
    for name, each in {
        "refused": golden_desk(judge, small, tp="3"),
        "under-way": replace(fine, course=under_way),
        "rolled-back": replace(fine, course=over),
        "typing": replace(fine, found=("/models/a", "/models/b", "/models/folder/"), choice=1),
    }.items():
        frame = deploy(each, scene(), FEED, Options(), KEYS, size[0] - 1, size[1])
        lines = [text(line).rstrip() for line in (*frame.head, *frame.body, *frame.panels, *frame.foot)]
        check_golden(f"deploy-{name}-{size[0]}x{size[1]}", lines)
    question = [text(line).rstrip() for line in confirmation(fine, scene(), min(71, size[0] - 5))]
    check_golden(f"deploy-confirm-{size[0]}x{size[1]}", question)
