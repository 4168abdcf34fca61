"""How far an order is, phase by phase, and how it ended, whoever gave it."""

import msgspec
import pytest
from courses import MS, progress
from scenes import alone, scene

from runtime.control import ROLLING_BACK, Changed, Outcome, PhaseTime
from telemetry.records import EventRecord
from tui.view.course import Course, course_lines
from tui.view.line import text
from tui.view.watched import watched


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
    page = course_text(watched(view, ()), 1000)
    assert "reconfigure qwen3-30b: tp 2 -> 4" in page
    assert "◐ load 50%, 1.0 s left" in page
    assert watched(scene().deployments[0], ()) is None


def test_phases_that_are_over_are_never_cut():
    phases = [PhaseTime(name, 0.2) for name in ("drain", "stop", "load", "warm-up", "replay")]
    course = Course("reconfigure", "t").how(Changed("t", Outcome.CHANGED, {"tp": 1}, {}, phases, 1.0)).ended()
    for columns in (30, 60, 79):
        lines = [text(each) for each in course_lines(course, 0, "GiB", columns, 20)]
        assert all(len(each) <= columns for each in lines)
        assert all(f"✓ {each.phase} 0.2 s" in "\n".join(lines) for each in phases)


def event(at_ms, kind, words, severity="info", deployment="qwen3-30b"):
    return EventRecord(deployment, 2, at_ms * MS, severity, kind, words)


ORDERED = (
    event(1000, "operator", "reconfigure: tp 2 -> 1"),
    event(1040, "reconfigure", str(PhaseTime("drain", 0.04))),
    event(1300, "reconfigure", str(PhaseTime("stop", 0.26))),
)
BACK = (
    event(2000, "rank-died", "rank 1 was ended by SIGKILL", "error"),
    event(2001, "reconfigure", str(PhaseTime("load", 0.7))),
    event(2600, "reconfigure", str(PhaseTime("load", 0.6, rollback=True))),
    event(3000, "reconfigure", "rank 1 was ended by SIGKILL. Rolled back: 'qwen3-30b' serves tp2 as before\n...", "warning"),
)


def test_how_somebody_elses_change_ended_is_seen_by_all():
    [view] = alone(scene()).deployments
    page = course_text(watched(view, (*ORDERED, *BACK)), 15_000)
    assert "reconfigure qwen3-30b: tp 2 -> 1" in page
    assert "12 s ago" in page
    assert "✓ drain 0.0 s  ✓ stop 0.3 s  ✓ load 0.7 s\n back: ✓ load 0.6 s\n" in page
    assert page.endswith("× rank 1 was ended by SIGKILL. Rolled back: 'qwen3-30b' serves tp2 as before")
    well = (*ORDERED, event(1900, "reconfigure", "'qwen3-30b' serves tp1 after a pause of 0.90 s"))
    assert "✓ 'qwen3-30b' serves tp1" in course_text(watched(view, well), 2000)
    assert watched(view, [msgspec.structs.replace(each, deployment="llama-1b") for each in well]) is None
    assert watched(view, (*well, event(5000, "state", "STARTING"))) is None  # it was stopped, and another has its name


def test_who_comes_late_sees_the_phases_that_are_over():
    reason = f"{ROLLING_BACK} to tp2: rank 1 was ended by SIGKILL"
    view = alone(scene(), state="RECONFIGURING", phase="warm-up", reason=reason, phase_ns=2600 * MS).deployments[0]
    page = course_text(watched(view, (*ORDERED, *BACK[:3])), 2900)
    assert "✓ drain 0.0 s  ✓ stop 0.3 s  ✓ load 0.7 s\n back: ✓ load 0.6 s  ◐ warm-up, 0.3 s so far  · replay" in page


@pytest.mark.parametrize("phase", [PhaseTime("drain", 0.04), PhaseTime("warm-up", 12.5, True)])
def test_the_text_of_a_phases_event_says_all_of_it(phase):
    assert PhaseTime.read(str(phase)) == phase
    assert PhaseTime.read(f"it {phase}") is None
