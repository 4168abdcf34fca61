"""What happens when: acts of the script, demand, events. Each act shows one thing that a dashboard must tell from the others."""

from __future__ import annotations

import math

from telemetry.records import EventRecord

CYCLE_S = 180
LAUNCH_S = 9.0
_START = ((1.5, "spawn"), (7.0, "load"), (9.0, "warm-up"))

ACTS = {  # seconds of the script
    "late": (30.0, 60.0),  # rank 3 computes longer than its group
    "hot": (60.0, 70.0),  # in an ep layout one member's experts are
    "quiet": (70.0, 84.0),  # no request arrives
    "thin": (84.0, 96.0),  # two requests, so one micro-batch for all stages
    "crowd": (96.0, 110.0),  # KV is full, the hot experts are hot again
    "throttled": (122.0, 136.0),  # rank 1 is hot, its clock falls
    "host": (136.0, 150.0),  # the host is slow between two steps
    "failed": (150.0, 170.0),
}
DEATH = 110.0  # rank 1 dies, the group is launched again
LATE_RANK = 3
HOT_RANK = 1
LATE, THROTTLED = 1.3, 1.45  # by what a rank computes longer

_EVENTS = (
    (0.0, "info", "state", "launch 1", None),
    (9.0, "info", "state", "READY after 9.0 s", None),
    (31.0, "warning", "straggler", "computes 1.3x as long as the rest of its tp group", LATE_RANK),
    (61.0, "info", "straggler", "keeps up again", LATE_RANK),
    (98.0, "warning", "preemption", "KV is full: 2 requests go back to the queue", None),
    (DEATH, "error", "rank-died", "exit code -9 during all-reduce 48,213 of tp; 12 streams ended with an error", 1),
    (DEATH + 0.5, "info", "state", "launch 2 after the death of rank 1", None),
    (DEATH + LAUNCH_S, "info", "state", "READY after 9.0 s", None),
    (124.0, "warning", "device", "SM clock 1,095 of 1,755 MHz: SW thermal slowdown", HOT_RANK),
    (ACTS["failed"][0], "error", "state", "FAILED: 3 launches failed within 60 s", None),
)


def during(act: str, moment: float) -> bool:
    begin, end = ACTS[act]
    return begin <= moment < end


def state(moment: float) -> str:
    """The deployment's, as the daemon would call it."""
    since, generation = launched(moment)
    if during("failed", moment):
        return "FAILED"
    return "READY" if since >= LAUNCH_S else "STARTING" if generation == 1 else "RESTARTING"


def launched(moment: float) -> tuple[float, int]:
    """Seconds since the last launch, and which one it was."""
    return (moment, 1) if moment < DEATH else (moment - DEATH, 2)


def start_phase(since: float) -> tuple[str, float, float]:
    """What a launch is at, how far that is, and when it began."""
    begin = 0.0
    for end, name in _START:
        if since < end:
            return name, (since - begin) / (end - begin), begin
        begin = end
    return "", 1.0, begin


def hot_experts(moment: float) -> bool:
    return during("hot", moment) or during("crowd", moment)


def load(moment: float) -> float:
    """Running requests, as a share of the most that fit: waves, a quiet time, a thin one, a crowd."""
    if state(moment) != "READY" or during("quiet", moment):
        return 0.0
    if during("thin", moment):
        return 0.04
    if during("crowd", moment):
        return 1.0
    return 0.72 + 0.2 * math.sin(moment / 7) + 0.06 * math.sin(moment * 1.7)


def events(name: str, begin: float, moment: float) -> tuple[EventRecord, ...]:
    """What happened so far, `begin` being when the script was at 0."""
    return tuple(
        EventRecord(name, launched(when)[1], round((begin + when) * 1e9), severity, kind, text, rank)
        for when, severity, kind, text, rank in _EVENTS
        if when <= moment
    )
