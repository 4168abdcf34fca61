"""The stress screen driven by its keys: what it asks for, asks before, shows of a load that runs and of one that is over."""

from contextlib import asynccontextmanager
from itertools import chain

import loads
import msgspec
import pytest
from driving import dashboard, reached, redrawn
from scenes import QUIET, STEADY
from terminal import check_golden, roles

from profiles.listing import SAMPLES
from profiles.reader import Profile
from profiles.replay import ReplaySource
from runtime.layout import Layout
from runtime.stress.plan import ClosedLoop
from runtime.stress.progress import LoadState, Recording
from runtime.stress.trace import Trace
from tui.app import Dashboard
from tui.screens.confirm import ConfirmScreen
from tui.screens.overview import OverviewScreen
from tui.screens.stop import StopScreen
from tui.screens.stress import StressScreen
from tui.view.stress_form import Wrong, asked_for, load_form, load_words

SIZES = ((80, 24), (120, 40), (200, 60))


@pytest.fixture
def made(monkeypatch):
    """The jobs that the screen starts."""
    monkeypatch.setattr("runtime.stress.job.Job", loads.Job)
    monkeypatch.setattr(loads.Job, "made", [])
    return loads.Job.made


@asynccontextmanager
async def stress_screen(tmp_path, at=QUIET, size=(100, 40), **options):
    """As over a daemon whose deployment has no demand."""
    async with dashboard(at, size=size, **{"run_dir": tmp_path, **options}) as (app, pilot):
        await pilot.press("x")
        await reached(app, pilot, StressScreen)
        yield app, pilot


async def text(app, pilot):
    return "\n".join(await redrawn(app, pilot))


async def typed(app, pilot, field, words):
    """Mark a field and type over what it has."""
    steps = [each.name for each in app.screen.form.fields].index(field) - app.screen.form.at
    keys = {",": "comma", "=": "equals_sign", ":": "colon", ".": "full_stop", "/": "slash", " ": "space", "-": "minus"}
    await pilot.press(*["down" if steps > 0 else "up"] * abs(steps), "enter", "ctrl+u", *(keys.get(each, each) for each in words))


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("form", None),
        ("running", loads.running()),
        ("behind", loads.running(progress=loads.progress(late=0.3), recording=Recording("", "it is recorded already"))),
        ("over", loads.over()),
        ("steps", loads.stepped()),
        ("sweep", loads.swept()),
        ("sweeping", loads.running(said="pp4: load 40 %", stepping=True, sweep=True, trials=loads.swept().found.trials)),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_golden(name, state, tmp_path, made):
    async with stress_screen(tmp_path, STEADY, SIZES[0]) as (app, pilot):
        if state is not None:
            await pilot.press("x")
            await reached(app, pilot, ConfirmScreen)
            await pilot.press("y")
            await reached(app, pilot, StressScreen)
            made[0].becomes(state)
        for columns, rows in SIZES:
            await pilot.resize_terminal(columns, rows)
            await pilot.pause(0.06)
            lines = (await redrawn(app, pilot))[:-1]  # the footer is every screen's
            golden = chain.from_iterable(zip(lines, roles(app), strict=False))
            check_golden(f"stress-{name}-{columns}x{rows}", golden)


@pytest.mark.parametrize("state", [None, loads.running(), loads.over(), loads.stepped(), loads.swept()])
async def test_every_size_draws(state, tmp_path, made):
    async with stress_screen(tmp_path) as (app, pilot):
        if state is not None:
            await pilot.press("x")
            made[0].becomes(state)
        for size in ((1, 1), (2, 3), (5, 60), (300, 1), (300, 100), (19, 7), (3, 2)):
            await pilot.resize_terminal(*size)
            await pilot.pause(0.03)
            assert len(await redrawn(app, pilot)) == size[1]


async def test_x_leads_here_and_x_starts_what_the_form_says(tmp_path, made):
    async with stress_screen(tmp_path) as (app, pilot):
        await typed(app, pilot, "concurrency", "3")
        await pilot.press("enter")
        await typed(app, pilot, "duration", "5")
        await pilot.press("enter")
        await typed(app, pilot, "seed", "7")
        await pilot.press("enter")
        assert "x starts: closed loop, 3 at once, 5 s" in await text(app, pilot)
        await pilot.press("x")
        [job] = made
        assert (job.name, job.run_dir) == ("qwen3-30b", tmp_path)
        assert (job.asked.plan.pattern, job.asked.plan.duration_s, job.asked.plan.seed) == (ClosedLoop(3), 5.0, 7)
        job.becomes(loads.running())
        assert "RUNNING" in await text(app, pilot)


async def test_left_and_right_turn_values_and_the_pattern_brings_its_fields(tmp_path, made):
    async with stress_screen(tmp_path) as (app, pilot):
        await pilot.press("down", "right", "right", "left", "right")
        assert any("at once" in line and " 32" in line for line in await redrawn(app, pilot))
        await pilot.press("up", "right", "right")
        now = await text(app, pilot)
        assert "poisson" in now
        assert "requests/s" in now
        assert "layouts" not in now
        await pilot.press("enter", "enter")
        assert "burstiness" in await text(app, pilot)
        await pilot.press("R")
        assert "closed" in await text(app, pilot)


async def test_what_cannot_be_is_said_where_it_stands_and_nothing_starts(tmp_path, made):
    async with stress_screen(tmp_path) as (app, pilot):
        await typed(app, pilot, "duration", "soon")
        await pilot.press("enter")
        assert "'soon' is no number" in await text(app, pilot)
        await pilot.press("up", "x")
        assert made == []
        assert any(line.startswith("> seconds") and " x " in line for line in await redrawn(app, pilot))
        await typed(app, pilot, "duration", "1")
        await pilot.press("escape")
        assert "soon" in await text(app, pilot)  # escape leaves the text as it was
        await typed(app, pilot, "duration", "10")
        await pilot.press("enter")
        await typed(app, pilot, "fault", "t=1")
        await pilot.press("enter")
        assert "it must name one signal" in await text(app, pilot)


async def test_a_deployment_at_work_is_asked_about(tmp_path, made):
    async with stress_screen(tmp_path, STEADY) as (app, pilot):
        await pilot.press("x")
        assert any("requests of others" in line for line in await reached(app, pilot, ConfirmScreen))
        await pilot.press("escape")
        await reached(app, pilot, StressScreen)
        assert made == []
        await pilot.press("x")
        await reached(app, pilot, ConfirmScreen)
        await pilot.press("y")
        await reached(app, pilot, StressScreen)
        assert len(made) == 1


async def test_w_goes_round_the_windows(tmp_path, made):
    async with stress_screen(tmp_path) as (app, pilot):
        await pilot.press("x")
        made[0].becomes(loads.running())
        seen = []
        for _ in range(3):
            seen.append(next(line for line in await redrawn(app, pilot) if "w: " in line))
            await pilot.press("w")
        assert ["the last 10 s" in seen[0], "the last 60 s" in seen[1], "the whole run" in seen[2]] == [True] * 3
        assert "the last 10 s" in await text(app, pilot)


async def test_capital_k_stops_the_load_and_without_one_asks_to_stop_the_deployment(tmp_path, made):
    async with stress_screen(tmp_path) as (app, pilot):
        await pilot.press("K")
        await reached(app, pilot, StopScreen)
        await pilot.press("escape")
        await reached(app, pilot, StressScreen)
        await pilot.press("x")
        made[0].becomes(loads.running())
        await redrawn(app, pilot)
        await pilot.press("K")
        assert made[0].stopped == 1
        assert isinstance(app.screen, StressScreen)
        made[0].becomes(loads.over(interrupted=True))
        assert "INTERRUPTED" in await text(app, pilot)


async def test_n_and_x_lead_back_to_the_form_as_it_was(tmp_path, made):
    async with stress_screen(tmp_path) as (app, pilot):
        for key in ("n", "x"):
            await typed(app, pilot, "concurrency", "5")
            await pilot.press("enter", "x")
            made[-1].becomes(loads.over())
            assert "load is honest" in await text(app, pilot)
            await pilot.press(key)
            assert "x starts: closed loop, 5 at once" in await text(app, pilot)
        assert len(made) == 2


async def test_who_is_elsewhere_is_told_of_the_end_and_the_load_goes_on_meanwhile(tmp_path, made):
    async with stress_screen(tmp_path) as (app, pilot):
        await pilot.press("x", "1")
        await reached(app, pilot, OverviewScreen)
        assert made[0].stopped == 0
        made[0].becomes(LoadState("qwen3-30b", "failed", error="no OpenAI API answers"))
        await pilot.pause(0.1)
        assert any("no OpenAI API answers" in note.message for note in app._notifications)
        await pilot.press("7")
        await reached(app, pilot, StressScreen)
        assert "no OpenAI API answers" in await text(app, pilot)


async def test_leaving_the_dashboard_stops_the_load(tmp_path, made):
    async with stress_screen(tmp_path) as (_app, pilot):
        await pilot.press("x")
        made[0].becomes(loads.running())
        await pilot.press("q")
        await pilot.pause()
    assert made[0].stopped == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [({"run_dir": None}, "there is no daemon behind the scripted demo"), ({"readonly": True}, "read-only")],
)
async def test_where_no_load_can_be_started_it_says_why(options, words, tmp_path, made):
    async with dashboard(QUIET, **{"run_dir": tmp_path, **options}) as (app, pilot):
        await pilot.press("7")
        await reached(app, pilot, StressScreen)
        assert "No load can be started from here" in await text(app, pilot)
        assert words in (await text(app, pilot)).replace("\n", " ")
        await pilot.press("x")
        await pilot.pause()
        assert made == []


async def test_a_trace_is_completed_while_it_is_typed(tmp_path, made, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mooncake.jsonl").write_text('{"timestamp": 0, "input_length": 4, "output_length": 2}\n')
    async with stress_screen(tmp_path) as (app, pilot):
        await pilot.press("left")  # the last pattern
        assert "trace" in await text(app, pilot)
        await typed(app, pilot, "trace", "moon")
        for _ in range(100):
            if app.screen.found:
                break
            await pilot.pause(0.02)
        await pilot.press("tab", "enter", "x")
        assert isinstance(made[0].asked.plan.pattern, Trace)


@pytest.mark.parametrize(
    ("document", "words"),
    [(msgspec.json.encode(loads.result()), "✓ OVER"), (b'{"name": 3}', "cannot be read"), (None, "no daemon behind the replay")],
)
async def test_a_replay_shows_what_the_load_found_that_was_recorded(document, words):
    source = ReplaySource(Profile(SAMPLES / "tp4.mcap"))
    source.attached = {} if document is None else {"stress.json": document}
    app = Dashboard(source)
    async with app.run_test(size=(100, 40)) as pilot:
        await pilot.press("7")
        await reached(app, pilot, StressScreen)
        lines = await redrawn(app, pilot)
        assert words in "\n".join(lines)
        found = loads.result()
        assert any(f"{found.requests.sent:,} sent  {found.requests.ok:,} ok" in line for line in lines) == (words == "✓ OVER")
        assert "another" not in lines[-1]


def test_the_form_speaks_of_the_command_lines_flags():
    form = load_form({"pattern": "steps", "steps": "1, 8", "sweep": "tp2,pp2", "requests": "9", "duration": ""})
    wanted = asked_for(form)
    assert (wanted.steps, wanted.sweep, wanted.plan.duration_s) == ((1, 8), (Layout(tp=2), Layout(pp=2)), None)
    assert load_words(form) == "closed loop, steps 1, 8, under tp2, pp2, 9 requests"
    for edits, field in (
        ({"pattern": "steps", "steps": "x"}, "steps"),
        ({"sweep": "xp2"}, "sweep"),
        ({"pattern": "ramp", "ramp": "0"}, "ramp"),
        ({"pattern": "poisson", "rate": ""}, "rate"),
        ({"pattern": "trace"}, "trace"),
        ({"input_tokens": "many"}, "input_tokens"),
        ({"slo": "ttft"}, "slo"),
        ({"warmup": "60"}, "warmup"),
    ):
        with pytest.raises(Wrong) as wrong:
            asked_for(load_form(edits))
        assert field in wrong.value.fields
        assert "nearest that works" in str(wrong.value)
    assert asked_for(load_form({"pattern": "ramp", "rate": "1", "ramp": "12"})).plan.pattern.ramp_to == 12
    assert asked_for(load_form({"fault": "t=1 SIGKILL rank=0; t=2 SIGSTOP rank=1 for=1"})).plan.faults[1].rank == 1
