"""What the dashboard looks at and how: shared by the app and its screens, without Textual."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from telemetry.records import StepRecord
from telemetry.snapshot import DeploymentView, Snapshot
from tui.keymap import Keymap
from tui.keys import STEER, WRITE, Key
from tui.logs import Logs
from tui.recording import Recordings
from tui.source import Source
from tui.view.options import Feed, Options, chosen

if TYPE_CHECKING:
    from profiles.replay import ReplaySource


@dataclass(frozen=True)
class _Pause:
    snapshot: Snapshot | None
    timelines: dict[str, tuple[StepRecord, ...]]
    since: float


class Session:
    """A pause holds the snapshot that is shown; the source goes on and its age with it. A replay pauses by its clock."""

    def __init__(
        self,
        source: Source,
        readonly: bool = False,
        run_dir: Path | None = None,
        keymap: Keymap | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.readonly = readonly
        self.home = run_dir  # of the daemon behind the source that is shown first
        self.options = Options()
        self.proposal: dict[str, Any] = {}  # fields of a spec that the deploy screen shall begin with
        self._keymap = keymap or Keymap()
        self._clock = clock
        self._pause: _Pause | None = None
        self._log: Logs | None = None
        self._left: Source | None = None  # what a replay is shown in place of
        self.recordings = Recordings(run_dir) if run_dir is not None else None

    @property
    def run_dir(self) -> Path | None:
        """Of the daemon that may be steered; `None`: nothing to steer, as in a replay."""
        return None if self.replay else self.home

    @property
    def replay(self) -> ReplaySource | None:
        """What is shown, if it is a recording: only there one can seek. A live dashboard does without the reader of profiles."""
        return cast("ReplaySource", self.source) if hasattr(self.source, "seek") else None

    @property
    def can_leave(self) -> bool:
        """Whether there is something behind the replay to go back to."""
        return self._left is not None

    def enter(self, replay: ReplaySource) -> None:
        """Show a recording in place of what is shown; the first source goes on unseen."""
        if self._left is None:
            self._left = self.source
        else:
            self.source.close()
        self._turn_to(replay)
        replay.start()

    def leave(self) -> None:
        """Back to the first source."""
        if self._left is not None:
            self.source.close()
            self._turn_to(self._left)
            self._left = None

    def close(self) -> None:
        """End what is shown and what is not."""
        if self.recordings is not None:
            self.recordings.close()
        for source in (self.source, self._left):
            if source is not None:
                source.close()

    def _turn_to(self, source: Source) -> None:
        self.source, self._pause, self._log = source, None, None

    def look(self) -> tuple[Snapshot | None, Feed]:
        """What to show now, and what is known of it."""
        if replay := self.replay:
            paused_s = None if replay.playing else 0.0
            return replay.latest(), Feed(replay.name, replay.age(), replay.problem, paused_s, self.readonly, replay=True)
        paused_s = self._clock() - self._pause.since if self._pause else None
        snapshot = self._pause.snapshot if self._pause else self.source.latest()
        recorded = self._recorded(chosen(snapshot, self.options))
        feed = Feed(self.source.name, self.source.age(), self.source.problem, paused_s, self.readonly, recorded=recorded)
        return snapshot, feed

    def _recorded(self, deployment: DeploymentView | None) -> int | None:
        if deployment is None or self.recordings is None:
            return None
        under_way = self.recordings.under_way.get(deployment.name)
        return under_way.bytes if under_way else None

    def timeline(self, deployment: str) -> tuple[StepRecord, ...]:
        """The steps of its ranks in the last seconds; while paused, in those before the pause."""
        return self._pause.timelines.get(deployment, ()) if self._pause else self.source.timeline(deployment)

    def pause_or_resume(self) -> None:
        if self.replay:
            self.replay.toggle()
            return
        if self._pause:
            self._pause = None
            return
        snapshot = self.source.latest()
        names = [deployment.name for deployment in snapshot.deployments] if snapshot else []
        self._pause = _Pause(snapshot, {name: self.source.timeline(name) for name in names}, self._clock())

    def set(self, **changes: Any) -> None:
        self.options = replace(self.options, **changes)

    def log(self, deployment: str, rank: int | None = None) -> Logs | None:
        """What it writes, or one of its ranks, followed for as long as the same is asked for; `None` without a daemon."""
        if self.run_dir is None:
            return None
        directory = self.run_dir / "logs" / deployment
        if self._log is None or (self._log.directory, self._log.rank) != (directory, rank):
            self._log = Logs(directory, rank)
        return self._log

    def offered(self, tables: Iterable[tuple[str, Iterable[Key]]]) -> tuple[Key, ...]:
        """The keys of these tables as the user has mapped them, less those that an earlier table takes; off ones say why."""
        found: list[Key] = []
        taken: set[str] = set()
        for table, keys in tables:
            mine = [key for key in self._keymap.table(table, keys) if not taken.issuperset(key.key.split(","))]
            found += [key._replace(off=self.obstacle(key.needs)) if key.needs else key for key in mine]
            taken.update(each for key in mine for each in key.key.split(","))
        return tuple(found)

    def allows(self, action: str, keys: Iterable[Key]) -> bool | None:
        """Whether the action of that name is on, for Textual: `None` is off and seen to be so."""
        off = any(key.method == action and self.obstacle(key.needs) for key in keys)
        return None if off else True

    def obstacle(self, need: str) -> str:
        """Why what a key needs is not there; empty when it is."""
        if need in (STEER, WRITE) and self.readonly:
            return "this dashboard is read-only; start it without --readonly"
        if need == STEER and self.run_dir is None:
            return f"there is no daemon behind the {self.source.name}"
        return ""
