"""Pictures made of characters, and numbers in cells."""

import pytest

from tui.view.bars import Share, gauge, history
from tui.view.figures import age, milliseconds, percent, short, size
from tui.view.line import Part, Span, clean, crop, fit, keep, line, merged, spread, text, width


def test_history_is_on_a_fixed_scale():
    assert history([97, 98, 99], 3, 1, 100.0, 10) == ["███"]
    assert history([0, 50, 100], 3, 1, 100.0, 10) == ["▁▄█"]


def test_history_shows_the_foot_of_a_zero_and_nothing_for_no_data():
    assert history([0.0], 4, 1, 100.0, 10) == ["   ▁"]
    assert history([], 4, 2, 100.0, 10) == ["    ", "    "]


def test_history_grows_upwards():
    assert history([25, 50, 100], 3, 2, 100.0, 2) == ["  █", "▄██"]


def test_a_compressed_history_does_not_shiver():
    """A second later every group but the newest is the same, moved or not."""
    values = [float(i % 7) * 14 for i in range(60)]
    now = history(values, 20, 1, 100.0, 59)[0]
    later = history([*values[1:], 35.0], 20, 1, 100.0, 60)[0]
    assert now.strip()[1:-1] in later


@pytest.mark.parametrize("count", [0, 1, 7, 59, 60])
@pytest.mark.parametrize("columns", [0, 1, 9, 30, 61])
def test_history_is_as_wide_and_high_as_asked(count, columns):
    for second in range(5):
        assert [len(row) for row in history([50.0] * count, columns, 3, 100.0, second)] == [columns] * 3


def test_gauge_rounds_ends_and_never_overflows():
    thirds = [Share(1, "a", ""), Share(1, "b", ""), Share(1, "c", "")]
    assert text(gauge(thirds, 3, 12)) == "[aaabbbbccc]"
    assert text(gauge([Share(9, "a", "")], 3, 6)) == "[aaaa]"
    assert text(gauge([Share(0, "a", "")], 0, 6)) == "[····]"
    assert gauge(thirds, 3, 2) == ()


def test_unavailable_is_not_zero():
    assert [f(None) for f in (percent, milliseconds, short, age)] == ["--"] * 4
    assert [f(0) for f in (percent, milliseconds, short)] == ["0%", "0", "0"]
    assert size(None, "GiB") == "--"
    assert size(0, "GiB") == "0B"


def test_units_differ():
    assert size(112 * 2**30, "GiB") == "112Gi"
    assert size(112 * 2**30, "GB") == "120G"
    assert size(1000 * 2**20, "GiB") == "1.0Gi"


@pytest.mark.parametrize("exponent", range(15))
def test_figures_fit_their_cells(exponent):
    for mantissa in (1.0, 1.05, 9.949, 9.951, 9.9951, 9.99951):
        value = mantissa * 10**exponent
        assert len(size(value, "GiB")) <= 5
        assert len(size(value, "GB")) <= 5
        if exponent < 10:
            assert len(short(value)) <= 5, short(value)


def test_age():
    assert [age(s) for s in (0.04, 12, 150, 9000, 200_000)] == ["0.0 s", "12 s", "2 min", "2 h", "2 d"]


def test_text_from_outside_is_one_cell_a_character():
    assert clean("a\tb\x1b[31m\n世") == "a b?[31m ?"


def test_lines_are_cut_and_padded_to_the_cell():
    spans = (*line("abc"), *line("def", "bold"))
    assert text(crop(spans, 4)) == "abcd"
    assert text(fit(spans, 8)) == "abcdef  "
    assert text(fit(spans, 8, ">")) == "  abcdef"
    assert text(spread(line("left"), line("right"), 12)) == "left   right"
    assert width(spread(line("left"), line("right"), 3)) == 3


def test_the_least_important_part_goes_first():
    parts = [Part(0, line("name")), Part(2, line("detail")), Part(1, line("state"))]
    assert text(keep(parts, 19)) == "name  detail  state"
    assert text(keep(parts, 18)) == "name  state"
    assert text(keep(parts, 5)) == "name"
    assert text(keep(parts, 2)) == "na"


def test_merging_spans_changes_nothing_that_is_seen():
    spans = (Span("a", "bold"), Span("  "), Span("b", "bold"), Span(" ", "dim"), Span("", "bad"), Span("c", "", "go"), Span(" "))
    assert merged(spans) == [Span("a  b ", "bold"), Span("c", "", "go"), Span(" ")]
    assert text(merged(spans)) == text(spans)
