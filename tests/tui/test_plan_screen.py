"""The plan screen: a question answered again at every key, a layout that goes to Deploy, predictions beside what was measured."""

from contextlib import asynccontextmanager

import pytest
from driving import dashboard, reached, redrawn, settled
from scenes import FEED, STEADY, scene

from runtime.planner.calibration import Calibration
from runtime.planner.comparison import Compared, Comparison, Known, predicted_and_measured
from runtime.planner.hardware import find_gpu
from runtime.planner.models import find_model
from tui import keys, planning
from tui.screens.deploy import DeployScreen
from tui.screens.plan import PlanScreen
from tui.view.form import Form
from tui.view.line import text
from tui.view.measured import measured_lines
from tui.view.options import Options
from tui.view.plan import SORTS, Table, best, plan_screen, rows_of, said
from tui.view.plan_panels import PANELS

KEYS = keys.PLAN + keys.VIEW + keys.APP
ASKED = {"model": "llama-3.1-70b", "gpu": "h200", "gpus": "8", "isl": "1024", "osl": "256", "concurrency": ""}
ASKED |= {"use_case": "chat", "dtype": "auto", "engine": "shardscope"}


@pytest.fixture(scope="module")
def planned():
    return planning.plan(ASKED, more=True)


def drawn(planned, columns=119, rows=40, asked=ASKED, **how):
    table = Table(Form(planning.fields(), asked), planned, **how)
    frame = plan_screen(table, scene(), FEED, Options(), KEYS, columns, rows)
    return [text(line) for line in (*frame.head, *frame.body, *frame.panels, *frame.foot)], frame


# The answer


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model", "llama-3.1-71b", "near by: llama-3.1-"),
        ("gpu", "h2000", "near by: h200"),
        ("gpus", "0", "gpus '0': a whole number from 1 to 16,384"),
        ("gpus", "many", "gpus 'many': a whole number"),
        ("isl", "", "isl '': a whole number"),
        ("concurrency", "-3", "concurrency '-3': a whole number"),
        ("use_case", "caht", "near by: chat"),
        ("dtype", "bf61", "number format 'bf61' is not known; near by: bf16"),
        ("engine", "vlmm", "near by: vllm"),
    ],
)
def test_a_question_that_cannot_be_names_value_rule_and_nearest(field, value, words):
    found = planning.plan({**ASKED, field: value})
    assert list(found.wrong) == [field]
    assert words in found.wrong[field]
    assert found.plan is None
    lines, _frame = drawn(found)
    assert any(words[:20] in line for line in lines)


def test_every_use_case_and_every_change_is_answered(planned):
    assert set(planned.cases) >= {"chat", "voice", "batch", "recommendation"}
    assert planned.cases["chat"].point == planned.plan.choice.point
    assert "one more GPU" in [words for words, _choice in planned.changed]
    assert planning.plan(ASKED).changed == []


@pytest.mark.parametrize("sort", SORTS)
def test_the_best_stand_first_and_those_that_cannot_be_last(planned, sort):
    rows = rows_of(planned, sort)
    assert len(rows) == len(planned.plan.entries)
    runs = [each.point is not None for each in rows]
    assert runs == sorted(runs, reverse=True)
    figure = {"ttft": lambda p: p.ttft, "tpot": lambda p: p.tpot, "tok/s": lambda p: -p.tokens_s}
    figure |= {"/gpu": lambda p: -p.tokens_s_gpu, "/user": lambda p: -p.tokens_s_user}
    if sort in figure:
        values = [figure[sort](each.point) for each in rows if each.point]
        assert values == sorted(values)
    else:
        assert rows[0].taken


def test_of_a_layouts_loads_that_one_is_shown_which_serves_best_within_the_limits(planned):
    use_case = planned.plan.use_case
    for entry in planned.plan.entries:
        point = best(use_case, entry)
        within = [each for each in entry.points if use_case.met(each)]
        assert point is None or use_case.met(point) == bool(within)
        assert all(use_case.merit(each) <= use_case.merit(point) for each in within)


def test_what_runs_is_what_the_form_begins_with():
    view = scene(layout="tp4pp2").deployments[0]
    assert planning.beginning(view) | {"model": "qwen3-30b-a3b", "gpu": "h200", "gpus": "8"} == planning.beginning(view)
    assert planning.beginning(None)["gpus"] == "8"


def test_names_that_begin_so_come_first():
    found = planning.names("70b")
    assert found
    assert all("70b" in name for name in found)
    assert planning.names("qwen3-3")[0].startswith("qwen3-3")


# The page


def test_a_layout_that_cannot_be_says_why(planned):
    small = planning.plan({**ASKED, "gpu": "h100", "gpus": "3"})
    lines, _frame = drawn(small)
    assert any("tp3" in line and "tp 3: 64 attention heads do not divide by it" in line for line in lines)
    assert any("dp3" in line and "no" in line and "would fit" in line for line in lines)


def test_no_layout_fits_and_what_would():
    verdict = said(Table(Form(planning.fields(), ASKED), planning.plan({**ASKED, "gpu": "l4", "gpus": "1"})))
    assert (verdict.level, verdict.cause) == ("bad", "no layout fits")
    assert verdict.evidence
    assert verdict.remedy


def test_the_marked_layout_is_taken_apart(planned):
    rows = rows_of(planned, "merit")
    at = next(i for i, each in enumerate(rows) if str(each.entry.sharding) == "tp4dp2")
    page = "\n".join(drawn(planned, 119, 50, at=at)[0])
    point = rows[at].point
    assert f"{1e3 * point.step.weights:.1f}" in page
    for words in (
        "all-reduce",
        "hand-over",
        "launch",
        "Amdahl: tp 4 makes a step",
        "memory a rank",
        "KB sent a token by axis: tp",
    ):
        assert words in page


@pytest.mark.parametrize("panel", PANELS)
def test_each_panel_can_be_the_first(planned, panel):
    titles = {"split": " requests ─", "plot": "tok/s/user", "cases": "best by use case", "changes": "one more GPU"}
    page = "\n".join(drawn(planned, 79, 30, panel=panel, comparison="nothing runs")[0])
    assert titles.get(panel, "predicted and measured") in page


def test_a_large_screen_shows_them_all(planned):
    page = "\n".join(drawn(planned, 199, 60)[0])
    for words in ("tok/s/user", "best by use case", "what would change", "predicted and measured"):
        assert words in page


@pytest.mark.parametrize(("case", "why"), [("chat", "of TPOT"), ("voice", "of a step")])
def test_a_choice_says_its_figures_once_and_then_why(planned, case, why):
    """Chat's many requests wait for each other's prompts; voice's one does not."""
    lines = drawn(planned, 199, 60, panel="cases")[0]
    [line] = [each for each in lines if each.lstrip().startswith(f"{case} ")]
    name, share = planned.cases[case].point.limiting
    assert "/user" in line
    assert f"{name} {share:.0%} {why}" in line
    assert "tok/s/GPU at" not in line


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 60), (19, 7), (79, 24), (80, 24), (300, 1), (300, 100)])
def test_every_size_draws(planned, size):
    for shown in (None, planned, planning.plan({**ASKED, "model": "x"})):
        for how in ({}, {"found": ("a", "b"), "choice": 1}):
            _lines, frame = drawn(shown, *size, **how)
            every = [*frame.head, *frame.body, *frame.panels, *frame.foot]
            assert all(sum(len(span.text) for span in line) <= size[0] for line in every)
            assert len(frame.head) + len(frame.panels) + len(frame.foot) <= max(1, size[1])


# Predicted and measured


def test_a_prediction_that_is_far_off_stands_out_and_nothing_is_made_up():
    rows = (Compared("weights", "ms", 2.0, None), Compared("TPOT", "ms", 10.0, 20.0), Compared("KV", "tokens", 1e5, 1e5))
    lines = [text(line) for line in measured_lines(Comparison(rows, "4 requests", "uncalibrated (+-25%)"), 60, 20)]
    assert lines[0] == "uncalibrated (+-25%)"
    assert "--" in lines[3]
    assert "-50%!" in lines[4]
    assert "+0%" in lines[5]
    short = [text(line) for line in measured_lines(Comparison(rows, "4 requests", "uncalibrated (+-25%)"), 60, 5)]
    assert not any(line.startswith("weights") for line in short)
    assert [text(line) for line in measured_lines("it does not run", 60, 9)] == ["it does not run"]


def test_a_running_deployment_is_predicted_by_its_own_load():
    view = scene().deployments[0]
    known = Known(find_model("qwen3-30b-a3b"), find_gpu("h200"), Calibration())
    found = predicted_and_measured(view, known)
    lines = [text(line) for line in measured_lines(found, 80, 40)]
    assert "uncalibrated" in lines[0]
    assert any(line.startswith("bubble") for line in lines)


# The screen


@asynccontextmanager
async def planning_screen(size=(120, 40), **how):
    async with dashboard(STEADY, size=size, **how) as (app, pilot):
        await pilot.press("9")
        await reached(app, pilot, PlanScreen)
        await settled(app, pilot)
        yield app, pilot


async def page(app, pilot):
    await settled(app, pilot)
    return "\n".join(await redrawn(app, pilot))


async def test_every_key_plans_again():
    async with planning_screen() as (app, pilot):
        seen = await page(app, pilot)
        assert "10 layouts, 10 run" in seen
        assert "uncalibrated" in seen
        await pilot.press("]", "]", "right")
        seen = await page(app, pilot)
        assert "gpus ‹8›" in seen
        assert "20 layouts" in seen
        await pilot.press("left", "left", "left")
        assert "gpus ‹1›" in await page(app, pilot)
        await pilot.press("[", "[", "e", "ctrl+u", *"llama-3.1-8", "enter")
        assert "no layout" not in await page(app, pilot)
        assert app.screen.form.values["model"] == "llama-3.1-8"
        assert "near by: llama-3.1-8b" in await page(app, pilot)


async def test_a_name_is_completed():
    async with planning_screen() as (app, pilot):
        await pilot.press("e", "ctrl+u", *"llama-3.1-4")
        assert "llama-3.1-405b" in await page(app, pilot)
        await pilot.press("tab", "enter")
        assert app.screen.form.values["model"] == "llama-3.1-405b"
        assert "× no layout fits" in await page(app, pilot)
        await pilot.press("e", "ctrl+u", "x", "escape")
        assert app.screen.form.values["model"] == "llama-3.1-405b"


async def test_the_mark_the_order_and_the_panel_move():
    async with planning_screen(size=(80, 24)) as (app, pilot):
        first = await page(app, pilot)
        await pilot.press("down", "j", "k")
        second = await page(app, pilot)
        assert [line for line in first.splitlines() if line.startswith("▸@")]
        assert [line for line in second.splitlines() if line.startswith("▸") and "model" not in line] != []
        assert "▸@ dp4" not in second
        await pilot.press("s")
        assert "by ttft" in await page(app, pilot)
        await pilot.press("v")
        assert "x: marked" in await page(app, pilot)
        await pilot.click("#body", offset=(4, 0))
        assert [line for line in (await page(app, pilot)).splitlines() if line.startswith("▸")][1:] != []


@pytest.mark.parametrize(("model", "new"), [("qwen3-30b-a3b", False), ("llama-3.1-8b", True)])
async def test_enter_takes_the_layout_to_deploy(model, new, tmp_path):
    async with planning_screen(run_dir=tmp_path) as (app, pilot):
        await pilot.press("e", "ctrl+u", *model, "enter")
        await settled(app, pilot)
        await pilot.press("s", "s", "enter")
        await reached(app, pilot, DeployScreen)
        seen = await page(app, pilot)
        assert "filled in" in seen
        assert ("(•) new" in seen) == new
        assert ("model llama-3.1-8b is not a directory" in seen) == new


async def test_a_layout_of_another_engine_stays(monkeypatch):
    async with planning_screen() as (app, pilot):
        app.screen.edit(app.screen.form.put(engine="sglang"))
        await settled(app, pilot)
        rows = app.screen._rows()
        at = next(i for i, each in enumerate(rows) if each.entry.sharding.layout is None)
        app.screen.action_mark_row(at)
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, PlanScreen)
        assert "Only sglang has" in next(iter(app._notifications)).message


async def test_what_runs_is_compared_term_by_term():
    async with planning_screen(size=(200, 60)) as (app, pilot):
        seen = await page(app, pilot)
        assert "predicted and measured" in seen
        assert "uncalibrated (+-" in seen
        assert "TPOT" in seen


async def test_a_fault_of_the_planner_does_not_end_the_dashboard(monkeypatch):
    async with planning_screen() as (app, pilot):
        monkeypatch.setattr(planning, "plan", lambda *_: 1 / 0)
        await pilot.press("right")
        app.screen.edit(app.screen.form.put(gpus="2"))
        assert "ZeroDivisionError" in await page(app, pilot)
