"""What the daemon can be asked, and its answers: msgpack, typed, strict. One request gets any number of `Progress` (and a
`Changed`, `Begun` or `RecordingReport`, if it asked for one), then an `Ok` or a `Failed`, all with its id.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Struct

from profiles.report import RecordingProgress, RecordingReport
from runtime.layout import Layout
from telemetry.snapshot import Snapshot

ROLLING_BACK = "rolling back"
RECONFIGURE = "reconfigure"  # kind of the events of a reconfiguration: its phases' times, then how it ended
_PHASE_TIME = re.compile(rf"(?P<back>{ROLLING_BACK}, )?(?P<phase>[a-z-]+) took (?P<seconds>\d+\.\d+) s")
MAX_REQUEST = 1 << 20  # bytes; a peer that sends more is disconnected


class Status(Struct, frozen=True, forbid_unknown_fields=True, tag="status"):
    """Answered with an `Ok` that has `daemon` and `snapshot`."""


class Deploy(Struct, frozen=True, forbid_unknown_fields=True, tag="deploy"):
    """`spec`: the fields of a `DeploymentSpec`; its model is an absolute path. `wait`: answer when it is READY, or has failed."""

    spec: dict[str, Any]
    wait: bool = True


class StopDeployment(Struct, frozen=True, forbid_unknown_fields=True, tag="stop"):
    """Drain and stop it, and forget it. `now`: do not drain. Answered when its last process is gone."""

    name: str
    now: bool = False


class Reconfigure(Struct, frozen=True, forbid_unknown_fields=True, tag="reconfigure"):
    """Change `fields` of a live deployment's spec, keeping its requests. `wait`: answer when it is over, after a `Changed`."""

    name: str
    fields: dict[str, Any]
    wait: bool = True


class Record(Struct, frozen=True, forbid_unknown_fields=True, tag="record"):
    """Record a deployment to `path`, absolute, for so many seconds or until `StopRecording`. Answered with a `Begun`; then, with
    `wait`, with a `RecordingReport` when it is over. Nobody needs to wait: the daemon records. A file of so many bytes, or so
    many seconds old, is followed by another (`None`: see `profiles.recording.Policy`)."""

    name: str
    path: str
    seconds: float | None = None
    wait: bool = True
    rotate_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    rotate_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


class StopRecording(Struct, frozen=True, forbid_unknown_fields=True, tag="stop-recording"):
    """End the recording of a deployment. Answered with a `RecordingReport` when its file is whole. `attachments`: JSON documents
    by name, which go into the file."""

    name: str
    attachments: dict[str, bytes] = {}


class ListRecordings(Struct, frozen=True, forbid_unknown_fields=True, tag="list-recordings"):
    """Answered with an `Ok` that has `recordings`."""


Command = Status | Deploy | StopDeployment | Reconfigure | Record | StopRecording | ListRecordings


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    command: Command


class DaemonInfo(Struct, frozen=True):
    """Also `daemon.json` in the run directory. `started`: unix seconds."""

    pid: int
    http: str  # http://HOST:PORT
    run_dir: str
    started: int
    telemetry: str  # the hub's endpoint for snapshots


class Progress(Struct, frozen=True, tag="progress"):
    """Of a start or a reconfiguration. `share`: from 0 to 1, of the phase; None: not known. `loaded`, `to_load`: bytes of all
    ranks, while they load. `phase_ns`: when the phase began, by `time.perf_counter_ns`. `reason`: what is changed, or why it is
    taken back, which begins with ROLLING_BACK.
    """

    state: str
    generation: int
    phase: str
    share: float | None
    loaded: int | None = None
    to_load: int | None = None
    phase_ns: int | None = None
    reason: str = ""


class Outcome(StrEnum):
    """How a reconfiguration ended."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"  # there was nothing to change
    ROLLED_BACK = "rolled-back"  # the old layout serves
    FAILED = "failed"  # neither came up: the deployment's state says what now
    STOPPED = "stopped"


class PhaseTime(Struct, frozen=True):
    """`phase`: drain (of steps under way), stop (of ranks), load, warm-up, replay (of requests). `rollback`: on the way back."""

    phase: str
    seconds: float
    rollback: bool = False

    def __str__(self) -> str:
        """`rolling back, load took 0.512 s`: the text of its event."""
        return f"{f'{ROLLING_BACK}, ' if self.rollback else ''}{self.phase} took {self.seconds:.3f} s"

    @classmethod
    def read(cls, text: str) -> PhaseTime | None:
        """Of such a text; None of any other."""
        found = _PHASE_TIME.fullmatch(text)
        return cls(found["phase"], float(found["seconds"]), bool(found["back"])) if found else None


class Changed(Struct, frozen=True, tag="changed"):
    """The end of a reconfiguration. `layout`: the one aimed at last; `fields`: before and after; `seconds`: without tokens."""

    name: str
    outcome: Outcome
    layout: dict[str, int]
    fields: dict[str, tuple[Any, Any]]
    phases: list[PhaseTime]
    seconds: float
    reason: str = ""

    @property
    def served(self) -> bool:
        """Whether it serves as was asked."""
        return self.outcome in (Outcome.CHANGED, Outcome.UNCHANGED)

    def asdict(self) -> dict[str, Any]:
        """JSON-ready: what `shardscope reconfigure --json` prints."""
        return dict(msgspec.to_builtins(self))

    @property
    def words(self) -> str:
        """One line, for whoever asked for it."""
        layout = Layout(**self.layout)
        match self.outcome:
            case Outcome.UNCHANGED:
                return f"'{self.name}' serves under these already"
            case Outcome.CHANGED:
                times = ", ".join(f"{each.phase} {each.seconds:.2f} s" for each in self.phases)
                return f"'{self.name}' serves {layout} after a pause of {self.seconds:.2f} s: {times}"
            case Outcome.ROLLED_BACK:
                return f"{self.reason}. Rolled back: '{self.name}' serves {layout} as before"
            case Outcome.FAILED:
                return f"{self.reason}. '{self.name}' lost its requests and is started again, unless it fails too often"
            case Outcome.STOPPED:
                return f"'{self.name}' was stopped meanwhile"


class Begun(Struct, frozen=True, tag="begun"):
    """Of a recording."""

    path: str


class Ok(Struct, frozen=True, tag="ok"):
    """`specs`: of a `Status`, by name, the fields of each deployment's `DeploymentSpec` as it serves now.
    `recordings`: of a `ListRecordings`, those under way."""

    daemon: DaemonInfo | None = None
    snapshot: Snapshot | None = None
    specs: dict[str, dict[str, Any]] = {}
    recordings: list[RecordingProgress] = []


class Failed(Struct, frozen=True, tag="failed"):
    """`usage`: what was asked cannot be; else it was tried and failed."""

    error: str
    usage: bool = False


Answer = Progress | Changed | Begun | RecordingReport | Ok
Body = Answer | Failed


class Reply(Struct, frozen=True):
    id: str
    body: Body
