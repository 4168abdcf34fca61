"""What the dashboard looks at and how: shared by the app and its screens, without Textual."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from telemetry.snapshot import Snapshot
from tui.source import Source
from tui.view.options import Feed, Options


@dataclass(frozen=True)
class _Pause:
    snapshot: Snapshot | None
    since: float


class Session:
    """A pause holds the snapshot that is shown; the source goes on and its age with it."""

    def __init__(
        self,
        source: Source,
        readonly: bool = False,
        run_dir: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.readonly = readonly
        self.run_dir = run_dir  # of the daemon that may be steered; None: nothing to steer
        self.options = Options()
        self._clock = clock
        self._pause: _Pause | None = None

    def look(self) -> tuple[Snapshot | None, Feed]:
        """What to show now, and what is known of it."""
        paused_s = self._clock() - self._pause.since if self._pause else None
        snapshot = self._pause.snapshot if self._pause else self.source.latest()
        return snapshot, Feed(self.source.name, self.source.age(), self.source.problem, paused_s, self.readonly)

    def pause_or_resume(self) -> None:
        self._pause = None if self._pause else _Pause(self.source.latest(), self._clock())

    def set(self, **changes: Any) -> None:
        self.options = replace(self.options, **changes)
