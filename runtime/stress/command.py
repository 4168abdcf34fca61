"""`shardscope stress`: flags into a load, and its result on stdout. Words and the live line go to stderr."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from runtime.interrupt import leave_in_order
from runtime.live_line import LiveLine
from runtime.run_dir import RunDir
from runtime.stress.asked import Asked, asked
from runtime.stress.client import Target, TargetFailed
from runtime.stress.perform import News, Said, local_site, perform
from runtime.stress.progress import Progress, Recording
from runtime.stress.report import as_html
from runtime.stress.result import Found, Result, Steps, Sweep, Trial, as_object, runs_of
from runtime.stress.sweep_table import sweep_lines, trial_lines
from runtime.stress.table import as_text, knee_line, progress_line, step_header, step_row
from runtime.stress.tape import Site
from runtime.stress.values import BadPlan, refuse

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED, FAILED = 130, 1

__all__ = ["BadPlan", "TargetFailed", "stress"]


def stress(name: str, given: Mapping[str, Any], as_json: bool, run_dir: Path | None, record: bool = True) -> int:
    """The exit code. Raises BadPlan for what cannot be, TargetFailed, and what `ControlClient` raises."""
    wanted = asked(given)
    report = Path(given["report"]) if "report" in given else None
    if report is not None and not report.absolute().parent.is_dir():
        raise refuse("--report", report, "its directory does not exist", report.name)
    profiles = RunDir(run_dir).profiles if record else None
    site = _foreign_site(name, str(given["url"]), wanted) if "url" in given else local_site(name, wanted, run_dir, profiles)
    leave_in_order()
    with _stopped_by_signals() as stop, _Teller(wanted, as_json) as teller:
        found = perform(wanted, site, teller.hear, stop)
    if as_json:
        print(json.dumps(as_object(found)))
    else:
        print("\n".join(_summary(found)))
    if report is not None:
        report.write_text(as_html(found))
        print(f"report: {report}", file=sys.stderr)
    return _code(found)


def _foreign_site(name: str, url: str, wanted: Asked) -> Site:
    if wanted.plan.faults:
        raise refuse("--fault", "with --url", "faults go to local deployments of this daemon alone", "--fault without --url")
    url = url.rstrip("/").removesuffix("/v1")
    if not url.startswith(("http://", "https://")):
        raise refuse("--url", f"'{url}'", "it must begin with http:// or https://", f"http://{url.rpartition('://')[2]}")
    return Site(Target(url, name))


def _summary(found: Found) -> Iterator[str]:
    """What is not said yet when it is over."""
    if isinstance(found, Result):
        yield as_text(found)
    elif isinstance(found, Steps):
        yield knee_line(found)
    else:
        yield from sweep_lines(found)


def _code(found: Found) -> int:
    if found.interrupted:
        return INTERRUPTED
    broken = isinstance(found, Sweep) and found.unrestored
    return 0 if not broken and any(run.requests.ok for run in runs_of(found)) else FAILED


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C, SIGTERM or SIGHUP that is not ignored; the second ends us as ever."""
    stop = threading.Event()

    def told(number: int, frame: FrameType | None) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else handler)

    before = {each: signal.signal(each, told) for each in STOPPING if signal.getsignal(each) is not signal.SIG_IGN}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class _Teller:
    """A live line of how it goes; rows as steps end, on stdout unless that is for JSON."""

    def __init__(self, wanted: Asked, as_json: bool) -> None:
        self._rows = sys.stderr if as_json else sys.stdout
        self._wanted = wanted
        self._line = LiveLine()

    def __enter__(self) -> _Teller:
        if self._wanted.steps is not None and not self._wanted.sweep:
            print(step_header(), file=self._rows, flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._line.wipe()

    def hear(self, news: News) -> None:
        match news:
            case Progress():
                self._line.show(progress_line(news))
            case Said():
                self._line.show(news.words)
            case Recording():
                if not news.path:
                    self._print(f"not recorded: {news.why}", sys.stderr)
                elif self._wanted.steps is None:
                    self._print(f"recording to {news.path}", sys.stderr)
            case Result():
                if not self._wanted.sweep:
                    self._print(step_row(news), self._rows)
            case Trial():
                for row in trial_lines(news):
                    self._print(row, sys.stderr)

    def _print(self, words: str, file: Any) -> None:
        self._line.wipe()
        print(words, file=file, flush=True)
