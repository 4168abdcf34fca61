"""Recordings from the dashboard: the daemon makes them, so that nothing is lost when the screen is closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiles.report import RecordingProgress
    from tui.steering import Steering, Told

_PERIOD_S = 1.0
_VERBS = ("record", "stop recording")


class Recordings:
    """Asks the daemon once a second, in a thread of its own, which recordings are under way, whoever began them; begins and ends
    them for the user."""

    def __init__(self, run_dir: Path) -> None:
        self.under_way: Mapping[str, RecordingProgress] = {}  # by deployment
        self._run_dir = run_dir
        self._told: object = None  # the last end that the user heard of: who began a recording and ends it is told twice
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="recordings", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def toggle(self, steering: Steering, name: str) -> str:
        """Begin to record a deployment, into the run directory's `profiles/`, or end its recording. Why not, where that fails."""
        if name in self.under_way:
            steering.stop_recording(name)
            return ""
        directory = self._run_dir / "profiles"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            return f"{directory}: {error.strerror}"
        steering.record(name, directory / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.mcap")
        return ""

    def said(self, told: Told) -> tuple[str, bool]:
        """What the user is to hear of an order's news, and whether it is bad; nothing of other orders, and nothing twice."""
        name = told.order.name
        if told.order.verb not in _VERBS:
            return "", False
        if told.error:
            return f"{told.order}: {told.error}", True
        if (path := getattr(told.news, "path", "")) and told.order.verb == "record":
            return f"recording {name} to {path}; the same key ends it", False
        words = getattr(told.news, "words", "")
        if not words or told.news == self._told:
            return "", False
        self._told = told.news
        return words, bool(getattr(told.news, "error", ""))

    def _follow(self) -> None:
        from runtime.client import ControlClient, DaemonError, GivenUp

        while not self._closing.is_set():
            try:
                with ControlClient(self._run_dir, self._closing.is_set) as client:
                    while not self._closing.is_set():
                        self.under_way = {each.deployment: each for each in client.recordings()}
                        self._closing.wait(_PERIOD_S)
            except GivenUp:
                return
            except DaemonError:
                self.under_way = {}
                self._closing.wait(_PERIOD_S)
