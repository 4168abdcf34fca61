"""What was ordered of a deployment by somebody else, or by a dashboard before this one, as far as its snapshots tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runtime.control import RECONFIGURE, PhaseTime, Progress
from telemetry.records import EventRecord
from telemetry.snapshot import DeploymentView
from tui.view.course import Course, first_line

_VERBS = {"STARTING": "deploy", "RESTARTING": "restart", "RECONFIGURING": RECONFIGURE}
_ORDERED = f"{RECONFIGURE}: "


def watched(view: DeploymentView, events: Sequence[EventRecord]) -> Course | None:
    """What goes on with it, else its last reconfiguration and how that ended; None: neither, as far back as `events` go."""
    last = last_change(view.name, events)
    verb = _VERBS.get(view.state)
    if verb is None:
        return last if last is not None and last.over else None
    ends = last.ends if last is not None and verb == RECONFIGURE and not last.over else ()
    at = Progress(view.state, view.generation, view.phase, view.progress, view.loaded, view.to_load, view.phase_ns, view.reason)
    return Course(verb, view.name, view.reason, at, ends)


def last_change(name: str, events: Sequence[EventRecord]) -> Course | None:
    """The last reconfiguration of the deployment of that name; `over` once it has ended."""
    course: Course | None = None
    for event in events:
        if event.deployment != name:
            continue
        if event.kind == "operator" and event.text.startswith(_ORDERED):
            course = Course(RECONFIGURE, name, event.text.removeprefix(_ORDERED))
        elif event.kind == "state" and event.text.startswith("STARTING"):
            course = None  # that was another deployment of this name
        elif event.kind == RECONFIGURE and course is not None:
            course = _told(course, event)
    return course


def _told(course: Course, event: EventRecord) -> Course:
    """Of the end of a phase, else of the whole."""
    phase = PhaseTime.read(event.text)
    if phase is not None:
        return replace(course, ends=(*course.ends, phase))
    good = event.severity == "info"
    return replace(course, said=first_line(event.text), good=good, over=True, over_ns=event.time_ns)
