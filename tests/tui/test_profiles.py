"""Screen 8: the list of recordings, replay from it, comparison, export; on recordings that are made here."""

import sys
from contextlib import asynccontextmanager
from itertools import chain
from math import sin
from pathlib import Path
from types import SimpleNamespace

import pytest
from driving import dashboard, reached, redrawn
from terminal import check_golden, roles, shown, weights

from profiles.comparison import Change, Comparison, Difference
from profiles.courses import POINTS, Course
from profiles.listing import COMPLETE, CUT, DAMAGED, RECORDING, Listed
from profiles.provenance import Provenance
from profiles.reader import Profile
from tui.app import Dashboard
from tui.screens import profiles as screen
from tui.screens.asking import AskScreen
from tui.screens.overview import OverviewScreen
from tui.screens.profiles import ProfilesScreen
from tui.view.compare import comparison_lines, comparison_verdict, course_lines
from tui.view.line import text, width

sys.path.append(str(Path(__file__).parents[1] / "profiles"))
from profile_runs import Run

from profiles.replay import ReplaySource

SIZES = ((80, 24), (120, 40), (200, 60))
HEAD = 2  # lines of every screen, which have goldens of their own
WALL_S = 1_800_000_000.0


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Two runs alike, one slower, one that was cut."""
    place = tmp_path_factory.mktemp("run")
    profiles = place / "profiles"
    profiles.mkdir()
    Run(seconds=20).record(profiles / "base.mcap", model="/models/tiny", dtype="float32", device="cpu", torch="2.13.0")
    Run(seconds=20, slow=1.5, seed=3).record(profiles / "slow.mcap", settings={"delay_ms": 20}, torch="2.13.0")
    (profiles / "cut.mcap.part").write_bytes((profiles / "base.mcap").read_bytes()[:60_000])
    return place


@asynccontextmanager
async def listed(run_dir, size=(120, 40), **options):
    async with dashboard(run_dir=run_dir, size=size, **options) as (app, pilot):
        await pilot.press("8")
        await reached(app, pilot, ProfilesScreen)
        await until(app, pilot, lambda lines: any("tp4.mcap" in line for line in lines))
        yield app, pilot


async def until(app, pilot, true):
    for _ in range(400):
        lines = await redrawn(app, pilot)
        if true(lines):
            return lines
        await pilot.pause(0.03)
    raise AssertionError("\n".join(shown(app)))


async def move_to(app, pilot, name):
    for _ in range(12):
        lines = await redrawn(app, pilot)
        if any(line.startswith("▸") and name in line for line in lines):
            return
        await pilot.press("down")
    raise AssertionError(f"{name} is not in the list")


async def test_it_lists_this_daemons_recordings_and_the_samples(run_dir):
    async with listed(run_dir) as (app, pilot):
        lines = await redrawn(app, pilot)
        rows = {line.replace("▸", " ").split()[0]: line for line in lines if " run " in line or " sample " in line}
        assert rows.keys() >= {"base.mcap", "slow.mcap", "cut.mcap.part", "tp4.mcap", "pp4.mcap", "ep4.mcap"}
        assert "complete" in rows["base.mcap"]
        assert "00:00:19" in rows["base.mcap"]
        assert "tp2" in rows["base.mcap"]
        assert "tiny" in rows["base.mcap"]
        assert "recording" in rows["cut.mcap.part"]  # written a moment ago, and nobody finished it
        await move_to(app, pilot, "slow.mcap")
        assert any("delay_ms 20" in line for line in await redrawn(app, pilot))


async def test_enter_replays_one_on_the_same_screens_and_8_esc_comes_back(run_dir):
    async with listed(run_dir) as (app, pilot):
        await move_to(app, pilot, "slow.mcap")
        await pilot.press("enter")
        await reached(app, pilot, OverviewScreen)
        lines = await until(app, pilot, lambda lines: "replay slow.mcap" in lines[0])
        assert "REPLAY" in lines[-3]
        assert app.session.replay.path == run_dir / "profiles" / "slow.mcap"
        await pilot.press("8")
        await reached(app, pilot, ProfilesScreen)
        lines = await redrawn(app, pilot)
        assert any("▶" in line and "slow.mcap" in line for line in lines)
        await move_to(app, pilot, "base.mcap")
        await pilot.press("enter")
        await until(app, pilot, lambda lines: "replay base.mcap" in lines[0])
        await pilot.press("8")
        await reached(app, pilot, ProfilesScreen)
        await pilot.press("escape")
        lines = await redrawn(app, pilot)
        assert "scripted demo" in lines[0]
        assert app.session.replay is None
        assert isinstance(app.screen, ProfilesScreen)


async def test_two_are_marked_and_compared(run_dir):
    async with listed(run_dir) as (app, pilot):
        await pilot.press("v")
        assert any("mark two recordings" in line for line in await redrawn(app, pilot))
        await pilot.press("escape")
        await move_to(app, pilot, "base.mcap")
        await pilot.press("space")
        assert any("A is base.mcap" in line for line in await redrawn(app, pilot))
        await pilot.press("up", "up", "up", "up")
        await move_to(app, pilot, "slow.mcap")
        await pilot.press("space")
        lines = await redrawn(app, pilot)
        assert any("v compares A base.mcap with B slow.mcap" in line for line in lines)
        await pilot.press("v")
        lines = await until(app, pilot, lambda lines: any("── measures" in line for line in lines))
        assert any(line.startswith(" throughput") and "WORSE" in line for line in lines)
        assert "settings.delay_ms" in "\n".join(lines)
        assert "B is worse" in lines[2]
        assert any("inside noise: f shows them" in line for line in lines)
        assert not any(line.startswith(" balance") for line in lines)
        await pilot.press("f")
        lines = await redrawn(app, pilot)
        assert any(line.startswith(" balance") and "noise" in line for line in lines)
        titles = [line.split()[1] for line in lines if line.startswith("── ")]
        assert titles == ["compare", "made", "measures", "courses"]  # what was done otherwise comes first
        await pilot.press("escape")
        assert any("── recordings" in line for line in await redrawn(app, pilot))


async def test_what_cannot_be_compared_says_why_in_words(run_dir):
    async with listed(run_dir) as (app, pilot):
        for name in ("tp4.mcap", "ep4.mcap"):
            await move_to(app, pilot, name)
            await pilot.press("space", "up", "up", "up", "up", "up", "up")
        await pilot.press("v")
        await until(app, pilot, lambda lines: any("not comparable: these are runs of different models" in line for line in lines))
        await pilot.press("escape")
        assert not any("not comparable" in line for line in await redrawn(app, pilot))


async def test_a_third_mark_replaces_b_and_a_mark_can_be_taken_away(run_dir):
    async with listed(run_dir) as (app, pilot):
        for name in ("tp4.mcap", "pp4.mcap", "ep4.mcap"):
            await move_to(app, pilot, name)
            await pilot.press("space", "up", "up", "up", "up", "up", "up")
        assert [path.name for path in app.screen._marks] == ["tp4.mcap", "ep4.mcap"]
        await move_to(app, pilot, "tp4.mcap")
        await pilot.press("space")
        assert [path.name for path in app.screen._marks] == ["ep4.mcap"]


@pytest.mark.parametrize(("form", "name"), [("chrome", "base.trace.json"), ("csv", "base-csv"), ("parquet", "base-parquet")])
async def test_export(run_dir, tmp_path, monkeypatch, form, name):
    monkeypatch.chdir(tmp_path)
    async with listed(run_dir) as (app, pilot):
        await move_to(app, pilot, "base.mcap")
        await pilot.press("e")
        await reached(app, pilot, AskScreen)
        await pilot.press(*["backspace"] * 6, *"xml", "enter")
        await pilot.pause()
        assert "'xml' is no format: chrome, csv, parquet" in "\n".join(shown(app))
        await pilot.press(*["backspace"] * 3, *form, "enter")
        await reached(app, pilot, ProfilesScreen)
        await until(app, pilot, lambda lines: any(f"Wrote {tmp_path / name}" in str(each.message) for each in app._notifications))
        assert (tmp_path / name).exists()


async def test_a_path_that_is_typed_joins_the_list(run_dir, tmp_path):
    Run(seconds=6).record(tmp_path / "elsewhere.mcap")
    (tmp_path / "notes.txt").write_text("")
    async with listed(None) as (app, pilot):
        for typed, words in ((str(tmp_path / "nothing"), "there is no"), (str(tmp_path / "notes.txt"), "is no recording")):
            await pilot.press("o")
            await reached(app, pilot, AskScreen)
            app.screen.query_one("Input").value = typed
            await pilot.press("enter")
            await pilot.pause()
            assert words in " ".join("\n".join(shown(app)).split())
            await pilot.press("escape")
            await reached(app, pilot, ProfilesScreen)
        for typed in (str(tmp_path / "elsewhere.mcap"), str(tmp_path)):
            await pilot.press("o")
            await reached(app, pilot, AskScreen)
            app.screen.query_one("Input").value = typed
            await pilot.press("enter")
            await reached(app, pilot, ProfilesScreen)
            await until(app, pilot, lambda lines: any("elsewhere.mcap" in line and "file" in line for line in lines))


async def test_a_damaged_file_is_listed_and_refused_in_words(tmp_path):
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "noise.mcap").write_bytes(b"noise" * 1000)
    async with listed(tmp_path) as (app, pilot):
        await move_to(app, pilot, "noise.mcap")
        lines = await redrawn(app, pilot)
        assert any("noise.mcap" in line and "damaged" in line for line in lines)
        assert any("× no MCAP file" in line for line in lines)
        await pilot.press("enter")
        await until(app, pilot, lambda lines: any(line.startswith(" × ") and "no MCAP file" in line for line in lines))
        assert app.session.replay is None


async def test_a_replay_that_was_opened_by_itself_is_in_the_list(tmp_path):
    Run(seconds=6).record(tmp_path / "alone.mcap")
    app = Dashboard(ReplaySource(Profile(tmp_path / "alone.mcap")))
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("8")
        await reached(app, pilot, ProfilesScreen)
        await until(app, pilot, lambda lines: any("▶" in line and "alone.mcap" in line for line in lines))
        await pilot.press("space")  # marks here, and plays elsewhere
        assert len(app.screen._marks) == 1
        assert app.session.replay.playing


KNOWN = Provenance(
    "chat",
    app="0.1.0",
    commit="0123456789ab",
    torch="2.13.0",
    host="box",
    cpu="EPYC",
    cores=64,
    devices=["NVIDIA H200 1f2e3d4c"],
    model="/models/qwen3-30b",
    layout={"tp": 4, "pp": 2},
    device="cuda",
    dtype="bfloat16",
    settings={"micro_batches": 8, "max_model_len": 32768},
)
PLACE = Path("/run/user/1000/shardscope/profiles")
FOUND = [
    Listed(PLACE / "chat-20270115-080012.mcap.part", 3_400_000, RECORDING, 45.0, WALL_S - 45, KNOWN),
    Listed(PLACE / "chat-20270115-073000.mcap", 281_000_000, COMPLETE, 2530.4, WALL_S - 3000, KNOWN),
    Listed(PLACE / "a-name-that-is-rather-long-for-a-recording.mcap.part", 90_000, CUT, 12.0, WALL_S - 90_000, KNOWN),
    Listed(PLACE / "broken.mcap", 500, DAMAGED, problem="no MCAP file"),
]


@pytest.mark.parametrize("mono", [False, True], ids=["colour", "mono"])
async def test_goldens_of_the_list_and_the_comparison(monkeypatch, mono):
    if mono:
        monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(screen, "Listing", lambda: SimpleNamespace(look=lambda directories, files: FOUND))
    monkeypatch.setattr(screen, "time", SimpleNamespace(time=lambda: WALL_S))
    look = weights if mono else roles
    async with dashboard(run_dir=PLACE.parent, layout="tp2pp2") as (app, pilot):
        await pilot.press("8")
        await reached(app, pilot, ProfilesScreen)
        await until(app, pilot, lambda lines: any("broken.mcap" in line for line in lines))
        await pilot.press("down", "space", "up", "space", "down")
        app.screen._comparison = None
        for name, found in (("list", None), ("compare", COMPARED)):
            app.screen._comparison = found
            for size in SIZES:
                await pilot.resize_terminal(*size)
                await pilot.pause(0.06)
                lines = await redrawn(app, pilot)
                kind = "mono" if mono else "colour"
                check_golden(
                    f"profiles-{name}-{kind}-{size[0]}x{size[1]}", chain.from_iterable(zip(lines, look(app), strict=True))
                )


def change(measure, a, b, delta, low, high, verdict, unit="ms", points=False):
    return Change(measure, unit, a, b, points, delta, low, high, verdict)


def courses_of(a, b, over):
    """Waves around a and b; B has none of `over` and later, and a hole."""
    waves = [[mean * (1 + 0.2 * sin(i / 12)) for i in range(POINTS)] for mean in (a, b)]
    waves[1][60:70] = [None] * 10
    waves[1][over:] = [None] * (POINTS - over)
    return waves


COMPARED = Comparison(
    "/run/profiles/run-17.mcap",
    "/run/profiles/run-21.mcap",
    [Difference("settings.micro_batches", 4, 8), Difference("layout.pp", None, 2)],
    ["the loads differ: 512 prompt tokens of a request in A, 690 in B"],
    [
        change("throughput", 1512, 1804, 0.193, 0.181, 0.206, "better", "tok/s"),
        change("TTFT p50", 120.0, 121.0, 0.008, -0.02, 0.03, "noise"),
        change("TTFT p99", 412.0, 448.0, 0.087, 0.021, 0.150, "worse"),
        change("ITL p99", 31.0, 30.9, None, None, None, "noise"),
        change("bubble", 23.1, 11.4, -11.7, -12.1, -11.2, "better", "%", points=True),
    ],
    [
        Course("throughput", "tok/s", "time", 120.0, *courses_of(1500, 1800, over=200)),
        Course("bubble", "%", "time", 120.0, *courses_of(23, 11, over=200)),
        Course("throughput", "tok/s", "tokens", 181_440.0, *courses_of(1500, 1800, over=240)),
    ],
)


def test_the_verdict_of_a_comparison_names_the_news_the_greatest_first():
    assert comparison_verdict(COMPARED).cause == "B is worse: TTFT p99 +8.7%; better: throughput +19.3%, bubble -11.7 pt"
    quiet = Comparison("a", "b", [], [], [each for each in COMPARED.changes if each.verdict == "noise"])
    assert comparison_verdict(quiet).cause == "no difference beyond noise in 2 measures"


def test_a_comparison_is_drawn_to_scale():
    rows = {text(each).strip().split("  ")[0]: text(each) for each in comparison_lines(COMPARED, True, "", 160)}
    better, worse, noise = (rows[name] for name in ("throughput", "TTFT p99", "TTFT p50"))
    assert better.index("│") == worse.index("│") == noise.index("┿")
    assert better.rindex("o") > worse.rindex("o") > worse.index("│")
    assert rows["bubble"].rindex("o") < rows["bubble"].index("│")


def test_courses_are_drawn_on_one_scale_each_at_its_place():
    head, a, b, *bubble = map(text, course_lines(COMPARED.courses, "time", ", b: by tokens", 140))
    assert "over 2 min since work began, b: by tokens" in head
    assert len(bubble) == 2
    drawn_a, drawn_b = a[18:], b[18:]
    assert (a[:18], b[:18]) == (" throughput     A ", " to 2,160 tok/s B ")
    assert "█" in drawn_b
    assert "█" not in drawn_a
    cells = len(drawn_a)
    assert drawn_b.rstrip() == drawn_b[: round(cells * 200 / POINTS)]
    assert drawn_b[round(cells * 61 / POINTS) : round(cells * 69 / POINTS)].isspace()
    assert [text(each)[:12] for each in course_lines(COMPARED.courses, "tokens", "", 80)][1:] == [" throughput ", " to 2,160 to"]
    assert course_lines([], "time", "", 80) == []


async def test_courses_change_their_alignment(run_dir):
    async with listed(run_dir) as (app, pilot):
        app.screen._comparison = COMPARED
        await until(app, pilot, lambda lines: any("over 2 min since work began" in line for line in lines))
        await pilot.press("b")
        await until(app, pilot, lambda lines: any("over 181,440 output tokens, b: by time" in line for line in lines))


@pytest.mark.parametrize("columns", [1, 10, 40, 79, 120, 300])
def test_a_comparison_fits(columns):
    lines = comparison_lines(COMPARED, True, "", columns) + course_lines(COMPARED.courses, "time", "", columns)
    assert all(width(each) <= columns for each in lines)


async def test_every_size_draws(run_dir):
    async with listed(run_dir) as (app, pilot):
        for found in (None, COMPARED):
            app.screen._comparison = found
            for size in ((1, 1), (3, 9), (300, 1), (20, 6), (300, 100)):
                await pilot.resize_terminal(*size)
                await pilot.pause(0.05)
                assert len(await redrawn(app, pilot)) == size[1]
