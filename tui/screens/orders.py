"""The orders that a screen gives to the daemon, how far the last one is, and what others ordered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from telemetry.records import EventRecord
from telemetry.snapshot import DeploymentView
from tui.steering import Order, Steering, Told
from tui.view.course import Course
from tui.view.watched import watched


class Orders:
    """One at a time is under way."""

    def __init__(self) -> None:
        self._order: Order | None = None
        self._course: Course | None = None
        self._closed_ns = 0  # what ended before is not shown any more

    @property
    def under_way(self) -> Course | None:
        return self._course if self._course is not None and not self._course.over else None

    def deploy(self, steering: Steering, spec: Mapping[str, Any]) -> None:
        self._begin(steering.deploy(spec))

    def reconfigure(self, steering: Steering, name: str, changes: Mapping[str, tuple[Any, Any]]) -> None:
        """`changes`: before and after, by field."""
        words = ", ".join(f"{field} {before} -> {after}" for field, (before, after) in changes.items())
        self._begin(steering.reconfigure(name, {field: after for field, (_before, after) in changes.items()}), words)

    def _begin(self, order: Order, words: str = "") -> None:
        self._order, self._course = order, Course(order.verb, order.name, words)

    def told(self, told: Told, now_ns: int) -> Course | None:
        """Take in news, at a time of the snapshots' clock; the course, where it has come to its end."""
        from runtime.control import Changed, Progress

        if told.order != self._order or self._course is None:
            return None
        if isinstance(told.news, Progress):
            self._course = self._course.told(told.news)
        elif isinstance(told.news, Changed):
            self._course = self._course.how(told.news)
        if told.over:
            self._course = self._course.ended(told.error, now_ns)
        return self._course if told.over else None

    def close(self, now_ns: int) -> None:
        """Show no longer what has ended."""
        self._closed_ns = now_ns
        if self.under_way is None:
            self._course = None

    def shown(self, view: DeploymentView | None, events: Sequence[EventRecord]) -> Course | None:
        """Our own while it is under way; else what others have going with the deployment; else whichever ended last."""
        there = watched(view, events) if view is not None else None
        own = self._course
        if own is None:
            return there if there is not None and (there.over_ns is None or there.over_ns > self._closed_ns) else None
        if there is None or not own.over or (there.said and there.said == own.said):
            return own
        return there if there.over_ns is None or there.over_ns > (own.over_ns or 0) else own
