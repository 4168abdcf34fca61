"""How two runs went, by time and by tokens: by hand."""

import pytest

from profiles.courses import POINTS, courses
from profiles.measures import Measured


def run(rates, first=1000, **others):
    """Tokens a second of neighbouring seconds, None: no work; `others` by the second, too."""
    measured = Measured(len(rates))
    for key, values in {"throughput": rates, **others}.items():
        for second, value in enumerate(values, start=first):
            if value is not None:
                measured.samples[key].add(second, *value) if isinstance(value, tuple) else measured.samples[key].add(
                    second, value
                )
    return measured


def found(a, b, measure, align):
    [course] = [each for each in courses(a, b) if (each.measure, each.align) == (measure, align)]
    return course


def test_seconds_lie_where_they_were_after_the_first_with_work():
    """Of runs that began at other times; the longer one is the whole width. Idle seconds stay empty."""
    course = found(run([10, None, 30, 40], first=77), run([20, 20], first=5000), "throughput", "time")
    part = POINTS // 4
    assert course.span == 4
    assert course.a == [10] * part + [None] * part + [30] * part + [40] * part
    assert course.b == [20] * 2 * part + [None] * 2 * part


def test_tokens_lay_the_same_work_above_each_other():
    """A took three seconds for what B did in one; an idle second takes no room."""
    a = run([20, None, 20, 20, 60], step=[50, 51, 52, 53, 54])
    b = run([60, 30], first=7, step=[9, 18])
    course = found(a, b, "step", "tokens")
    part = POINTS // 6  # of 20 tokens
    assert course.span == 120
    assert course.a == [50] * part + [52] * part + [53] * part + [54] * 3 * part
    assert course.b == [9] * 3 * part + [18] * (part + part // 2) + [None] * (part + part // 2)


def test_more_seconds_than_points_are_means():
    course = found(run(list(range(10 * POINTS))), run([1]), "throughput", "time")
    assert course.a == [pytest.approx(10 * point + 4.5, rel=1e-3) for point in range(POINTS)]
    assert course.b == [1] + [None] * (POINTS - 1)


def test_what_neither_run_has_is_left_out_and_tokens_are_means_of_their_second():
    shown = courses(run([5, 5], itl_p50=[(10.0, 30.0), None]), run([5]))
    assert [(each.measure, each.align) for each in shown] == [
        (name, by) for by in ("time", "tokens") for name in ("throughput", "ITL")
    ]
    assert shown[1].a == [20] * (POINTS // 2) + [None] * (POINTS // 2)
    assert shown[1].b == [None] * POINTS
    assert courses(run([]), run([])) == []
