"""A start that is told on stderr, where nobody watches: a log shall not be full of it."""

from __future__ import annotations

import pytest

from runtime.control import Progress
from runtime.live_line import AGAIN_S
from runtime.progress_lines import ProgressLines


def test_in_a_log_a_phase_is_a_line_and_a_long_one_another_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with ProgressLines(lambda: now) as lines:
        for percent in range(101):
            lines.show(Progress("STARTING", 1, "loading", percent / 100))
            now += AGAIN_S / 40
        lines.show(Progress("STARTING", 1, "warm-up", None))
    assert capsys.readouterr().err.splitlines() == [
        "starting, generation 1: loading 0 %",
        "starting, generation 1: loading 40 %",
        "starting, generation 1: loading 80 %",
        "starting, generation 1: warm-up",
    ]


def test_a_terminal_sees_a_phase_on_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with ProgressLines() as lines:
        for phase, share in (("loading", 0.1), ("loading", 0.2), ("warm-up", None)):
            lines.show(Progress("STARTING", 1, phase, share))
    begun = "starting, generation 1"
    written = f"\r\x1b[K{begun}: loading 10 %\r\x1b[K{begun}: loading 20 %\n{begun}: warm-up\n"
    assert capsys.readouterr().err == written
