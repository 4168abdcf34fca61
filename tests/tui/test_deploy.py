"""The deploy screen: what is judged as one types, how it is asked for, how far it is; and the pieces that it is made of."""

import json
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from driving import dashboard, reached, redrawn, settled
from fake_machine import GIB, cpu, gpus, here
from scenes import FEED, STEADY, alone, scene
from terminal import check_golden, shown

from runtime.checkpoint.config import read_shape
from runtime.control import Changed, Outcome, PhaseTime, Progress
from runtime.layout import Layout
from runtime.planner.models import find_model
from runtime.spec import DeploymentSpec
from tui import checkpoints, keys
from tui.judge import Judge
from tui.screens.confirm import ConfirmScreen
from tui.screens.deploy import DeployScreen
from tui.screens.overview import OverviewScreen
from tui.steering import Order, Told
from tui.view.course import Course, course_lines, watched
from tui.view.deploy import Desk, command, confirmation, consequences, deploy
from tui.view.fit import Wanted, fit
from tui.view.form import Field, Form, turned, whole_number
from tui.view.judgement import Judgement
from tui.view.line import text
from tui.view.options import Options
from tui.view.settings import DEFAULTS, LIVE, NEW, as_fields, as_text

KEYS = keys.DEPLOY + keys.VIEW + keys.APP


def written(path, name="llama-3.1-405b", **changes):
    """A checkpoint's config.json, which is all that a judgement reads."""
    data = Path(find_model.__code__.co_filename).parent / "data" / "models.json"
    config = {**json.loads(data.read_text())[name]["config"], "architectures": ["LlamaForCausalLM"], **changes}
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture
def small(tmp_path):
    return written(tmp_path / "small-1b", "llama-3.2-1b", torch_dtype="bfloat16")


@pytest.fixture
def judge():
    return Judge(*here(cpu(16)))


def asked(model, **values):
    return {**as_text(DEFAULTS), "model": str(model), **values}


# The form


@pytest.mark.parametrize(
    ("kind", "before", "step", "after"),
    [
        ("count", "1", 1, "2"),
        ("count", "3", 1, "4"),
        ("count", "3", -1, "2"),
        ("count", "1", -1, "1"),
        ("count", "nonsense", 1, "1"),
        ("count", "", 1, "1"),
        ("share", "0.9", 1, "0.95"),
        ("share", "1", 1, "1"),
        ("share", "0.05", -1, "0.05"),
        ("share", "x", 1, "0.9"),
        ("choice", "a", 1, "b"),
        ("choice", "a", -1, "c"),
        ("choice", "typed", 1, "b"),
        ("text", "as it is", 1, "as it is"),
    ],
)
def test_a_value_turns(kind, before, step, after):
    assert turned(Field("f", "f", kind, "", ("a", "b", "c")), before, step) == after


def test_a_value_that_may_be_left_open_turns_from_blank_and_back_to_it():
    context = next(of for of in LIVE if of.name == "max_model_len")
    first = turned(context, "", 1)
    assert first == "2048"
    assert turned(context, first, 1) == "4096"
    assert turned(context, first, -1) == ""


@pytest.mark.parametrize(
    ("given", "number"),
    [
        ("4096", 4096),
        ("1,000", 1000),
        ("4Gi", 4 << 30),
        ("512 MiB", 512 << 20),
        ("", None),
        ("-1", None),
        ("1e3", None),
        ("9" * 40, None),
    ],
)
def test_numbers_as_people_write_them(given, number):
    assert whole_number(given) == number


def test_a_form_knows_what_was_changed_and_keeps_it_over_other_values():
    form = Form((Field("a", "a", "count", ""), Field("b", "b", "text", "")), {"a": "1", "b": "x"}).put(a="2", c="unknown")
    assert form.changed == ("a",)
    assert form.on({"a": "2", "b": "y"}).changed == ()
    assert form.on({"a": "2", "b": "y"}).values == {"a": "2", "b": "y"}
    assert form.move(-1).at == 0
    assert form.move(9).at == 1
    assert form.reset().changed == ()


def test_every_setting_of_a_spec_goes_through_the_form_unchanged():
    spec = DeploymentSpec(model="/models/x", name="x", tp=2, dtype="bfloat16", max_model_len=512, enable_prefix_caching=False)
    assert DeploymentSpec.model_validate(as_fields(as_text(spec.model_dump(mode="json")))) == spec
    assert {of.name for of in NEW} | {"telemetry", "seed"} == set(DeploymentSpec.model_fields)
    defaults = DeploymentSpec(model="/models/x").model_dump(mode="json")
    assert {name: defaults[name] for name in DEFAULTS} == DEFAULTS


# Memory


def wanted(layout, **changes):
    given = {"device": "cuda", "dtype": "bfloat16", "context": None, "batch": 256, "step_tokens": 2048}
    return Wanted(Layout.parse(layout), **{**given, "share": 0.9, "kv_bytes": None, "block": 16, **changes})


@pytest.mark.parametrize(("layout", "weights"), [("tp2", 65.7), ("tp4", 32.9), ("tp8", 16.4)])
def test_a_70b_on_gpus_of_140_gib(layout, weights):
    found = fit(wanted(layout), find_model("llama-3.1-70b"), None, gpus(8, 139.8))
    [stage] = found.stages
    assert stage.weights / GIB == pytest.approx(weights, abs=0.1)
    assert stage.weights + stage.kv + stage.work + stage.left == pytest.approx(stage.total)
    assert found.tokens == pytest.approx(
        (0.9 * stage.total - stage.weights) / (80 * 2 * 8 * 128 * 2 / Layout.parse(layout).tp), rel=0.04
    )
    assert found.verdict.word in ("fits", "tight")


def test_stages_hold_what_they_are_given():
    found = fit(wanted("tp2pp4"), find_model("llama-3.1-70b"), None, gpus(8, 139.8))
    assert [len(stage.layers) for stage in found.stages] == [20, 20, 20, 20]
    ends = found.stages[0].weights
    assert found.stages[3].weights == ends
    assert found.stages[1].weights < ends


@pytest.mark.parametrize(
    ("layout", "changes", "change", "remedy"),
    [
        ("tp1", {"context": 4096}, "tp2 on 2 GPUs", {"dp": 1, "pp": 1, "ep": 1, "tp": 2}),
        ("tp1dp2", {"context": 4096}, "tp2 on the same ranks", {"dp": 1, "pp": 1, "ep": 1, "tp": 2}),
        ("tp2", {"context": 131072, "share": 0.6}, "a context of", {"max_model_len"}),
        ("tp2", {"share": 0.45}, "a memory share of 0.95", {"gpu_memory_utilization": 0.95}),
    ],
)
def test_what_does_not_fit_names_the_smallest_change_that_does(layout, changes, change, remedy):
    model, machine = find_model("llama-3.1-70b"), gpus(8, 139.8)
    found = fit(wanted(layout, **changes), model, None, machine)
    assert found.verdict.word == "no"
    assert found.verdict.change.startswith(change)
    assert found.remedy == remedy or set(found.remedy) == remedy
    renamed = {"max_model_len": "context", "gpu_memory_utilization": "share"}
    layout = Layout(**found.remedy).__str__() if "tp" in found.remedy else layout
    taken = {renamed[name]: value for name, value in found.remedy.items() if name in renamed}
    assert fit(wanted(layout, **{**changes, **taken}), model, None, machine).verdict.word != "no"


def test_a_cache_that_is_too_small_for_what_is_asked_is_tight():
    found = fit(wanted("tp2", context=131072), find_model("llama-3.1-70b"), None, gpus(2, 139.8))
    assert found.verdict.word == "tight"
    assert "the others wait" in found.verdict.reason
    busy = gpus(2, 139.8, free=40)
    assert "GiB of a GPU are free now" in fit(wanted("tp2"), find_model("llama-3.1-70b"), None, busy).verdict.reason


def test_the_cache_on_a_cpu_is_the_runtimes_own_rule():
    """As a daemon took it here, with 18.0 GiB left: KV bytes by stage of the 39.6 M demo model at tp2 pp2."""
    config = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 12, "num_attention_heads": 8}
    config |= {"num_key_value_heads": 4, "vocab_size": 8192, "max_position_embeddings": 4096, "tie_word_embeddings": True}
    from runtime.checkpoint.config import parse_shape
    from runtime.planner.models import read_model

    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32", "head_dim": 64}
    machine = cpu(18.0)
    found = fit(
        wanted("tp2pp2", device="cpu", dtype="float32", context=1024), read_model("demo", config), parse_shape(config), machine
    )
    assert [stage.kv for stage in found.stages] == [1073709056, 766935040]
    assert [stage.weights for stage in found.stages] == pytest.approx([49704960, 37902336], rel=1e-3)


# What cannot be: the value, the rule, the nearest


def test_a_path_that_is_no_checkpoint(judge, small):
    typo = small.parent / "smal-1b"
    assert judge.judge(asked(typo)).wrong["model"] == f"model {typo} is not a directory; near by: {small}"
    assert "which one?" in judge.judge(asked("")).wrong["model"]
    (small.parent / "empty").mkdir()
    assert "has no config.json" in judge.judge(asked(small.parent / "empty")).wrong["model"]


def test_a_layout_that_the_model_cannot_take(judge, small):
    found = judge.judge(asked(small, tp="3"))
    [words] = set(found.wrong.values())
    assert list(found.wrong) == ["tp"]
    assert "tp 3: 32 attention heads do not divide by it" in words
    assert "Nearest that work: dp3, pp3" in words
    assert (found.remedy["tp"], found.remedy["dp"], found.remedy_words) == (1, 3, "dp3")
    assert found.fit is None


def test_a_405b_on_this_machine(judge, tmp_path):
    found = judge.judge(asked(written(tmp_path / "llama-405b", torch_dtype="bfloat16")))
    assert found.wrong == {}
    assert found.fit.verdict.word == "no"
    assert "weights 755.96" in found.fit.verdict.reason
    assert "more than the 16.00 GiB of a rank" in found.fit.verdict.reason
    assert "a machine with more" in found.fit.verdict.change


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("dtype", "fp8", "dtype 'fp8': should be 'auto', 'float32', 'bfloat16' or 'float16'"),
        ("dtype", "bf16", "nearest: bfloat16"),
        ("tp", "two", "tp 'two': should be a valid integer"),
        ("pp", "0", "pp 0: should be greater than or equal to 1"),
        ("pp", "40", "pp 40: the model has only 16 layers"),
        ("ep", "2", "ep 2: the model has no experts (use dp 2 for more replicas)"),
        ("max_model_len", "900000", "the model's positions end at 131072"),
        ("gpu_memory_utilization", "1.5", "less than or equal to 1"),
        ("device", "cuda", "What works: --device cpu"),
        ("transport", "nccl", "NCCL needs a GPU for each rank"),
        ("name", "-x", "a name begins with a letter or digit"),
        ("dp", "1000000000", "1,024"),
    ],
)
def test_a_value_that_cannot_be_is_told_at_its_field(judge, small, field, value, words):
    found = judge.judge(asked(small, **{field: value}))
    assert words in found.wrong[field]


def test_a_name_that_is_taken(judge, small):
    found = judge.judge(asked(small), taken=("small-1b", "small-1b-2"))
    assert found.wrong == {"name": "name 'small-1b': a deployment of that name runs; free: small-1b-3"}
    assert found.remedy == {"name": "small-1b-3"}


def test_a_change_is_what_differs_from_what_runs(judge, small):
    current = DeploymentSpec(model=small, name="t", tp=2, max_model_len=512, max_num_seqs=16).model_dump(mode="json")
    found = judge.judge({**as_text(current), "tp": "1", "pp": "2", "max_model_len": ""}, current)
    assert found.changes == {"pp": (1, 2), "tp": (2, 1), "max_model_len": (512, None)}
    assert judge.judge(as_text(current), current).changes == {}


def test_what_the_runtime_can_read_fits_like_what_the_planner_knows(small):
    by_shape = fit(wanted("tp2pp2"), find_model(str(small)), read_shape(small), gpus(4, 80))
    assert sum(len(stage.layers) for stage in by_shape.stages) == 16
    assert len(by_shape.stages[0].layers) > len(by_shape.stages[1].layers)  # the head is work too


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


# How far it is

MS = 1_000_000


def progress(phase, began_ms, share=None, reason="", **more):
    return Progress("RECONFIGURING", 2, phase, share, phase_ns=began_ms * MS, reason=reason, **more)


def course_text(course, now_ms, columns=100):
    return "\n".join(text(line) for line in course_lines(course, now_ms * MS, "GiB", columns, 8))


def test_phases_are_timed_as_they_end_and_what_is_left_is_told():
    course = Course("reconfigure", "t", "tp 2 -> 1")
    for news in (progress("drain", 1000), progress("stop", 1040), progress("spawn", 1240), progress("load", 1300, 0.0)):
        course = course.told(news)
    course = course.told(progress("load", 1300, 0.25, loaded=1 << 30, to_load=4 << 30))
    page = course_text(course, 3300)
    assert "✓ drain 0.0 s  ✓ stop 0.2 s  ◐ load 25% 1.0Gi of 4.0Gi, 6.0 s left  · warm-up  · replay" in page
    assert "generation 2" in page
    done = course.how(
        Changed("t", Outcome.CHANGED, {"tp": 1}, {}, [PhaseTime("drain", 0.04), PhaseTime("load", 3.0)], 3.04)
    ).ended()
    assert "✓ 't' serves tp1 after a pause of 3.04 s" in course_text(done, 9000)


def test_the_way_back_stands_on_a_line_of_its_own():
    course, back = Course("reconfigure", "t", "tp 2 -> 1"), "rolling back to tp2: rank 1 was ended by SIGKILL"
    news = [progress("drain", 1000), progress("stop", 1100), progress("spawn", 1200), progress("stop", 2200, reason=back)]
    for each in [*news, progress("load", 2300, 0.5, reason=back)]:
        course = course.told(each)
    page = course_text(course, 2400)
    assert "rolling back to tp2: rank 1 was ended by SIGKILL" in page
    assert "✓ drain 0.1 s  ✓ stop 0.1 s  ✓ load 1.0 s\n" in page
    assert " back: ✓ stop 0.1 s  ◐ load 50%, 0.1 s left  · warm-up  · replay" in page
    over = course.how(Changed("t", Outcome.ROLLED_BACK, {"tp": 2}, {}, [], 2.0, "rank 1 was ended by SIGKILL")).ended("the same")
    assert "× rank 1 was ended by SIGKILL. Rolled back: 't' serves tp2 as before" in course_text(over, 9000)


def test_what_somebody_else_ordered_is_seen_too():
    view = alone(scene(), state="RECONFIGURING", phase="load", progress=0.5, reason="tp 2 -> 4", phase_ns=1).deployments[0]
    page = course_text(watched(view), 1000)
    assert "reconfigure qwen3-30b: tp 2 -> 4" in page
    assert "◐ load 50%, 1.0 s left" in page
    assert watched(scene().deployments[0]) is None


# Paths


def test_completions_are_directories_checkpoints_first(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    model = written(tmp_path / "models" / "b-model")
    (tmp_path / "models" / "a-folder").mkdir()
    (tmp_path / "models" / "file").touch()
    (tmp_path / "models" / ".hidden").mkdir()
    place = str(tmp_path / "models") + "/"
    assert checkpoints.completions(place) == [str(model), place + "a-folder/"]
    assert checkpoints.completions(place + "b") == [str(model)]
    assert checkpoints.completed(place + "b", checkpoints.completions(place + "b")) == str(model)
    assert checkpoints.completed(place, checkpoints.completions(place)) == place
    assert checkpoints.completions(str(tmp_path / "nowhere" / "x")) == []
    assert checkpoints.completions("") == []
    checkpoints.remember("/gone")
    checkpoints.remember(str(model))
    assert checkpoints.completions("") == [str(model)]


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
        screen._order, screen._course = order, Course("reconfigure", "qwen3-30b")
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


def test_a_judgement_without_a_spec_changes_nothing():
    assert Judgement().changes == {}
    assert Judgement().ranks == 0


def test_phases_that_are_over_are_never_cut():
    phases = [PhaseTime(name, 0.2) for name in ("drain", "stop", "load", "warm-up", "replay")]
    course = Course("reconfigure", "t").how(Changed("t", Outcome.CHANGED, {"tp": 1}, {}, phases, 1.0)).ended()
    for columns in (30, 60, 79):
        lines = [text(each) for each in course_lines(course, 0, "GiB", columns, 20)]
        assert all(len(each) <= columns for each in lines)
        assert all(f"✓ {each.phase} 0.2 s" in "\n".join(lines) for each in phases)
