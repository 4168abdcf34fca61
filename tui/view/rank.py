"""Screen 2: one rank. Where its step goes, what its memory holds, what its device and its log say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from telemetry.snapshot import DeploymentView, RankView, Snapshot
from tui.keys import Key
from tui.logs import LogLine
from tui.view.bars import history
from tui.view.device import device_panel
from tui.view.events import event_lines
from tui.view.figures import UNAVAILABLE, age, milliseconds, percent, short, size, whole
from tui.view.frame import Frame
from tui.view.heading import state
from tui.view.line import BLANK, Line, Part, Span, clean, fit, keep, line, rule
from tui.view.log import log_lines
from tui.view.options import Feed, Options, chosen, chosen_rank
from tui.view.ranks import place
from tui.view.screen import head_and_foot
from tui.view.steptime import step_panel

_BESIDE = 70  # columns from which panels stand beside each other
_WIDEST = 75  # columns of one that is read across
_MINUTE_S = 60
_TALLEST = 10  # rows of the history
_LOG = 8  # rows that the log may take before the history grows
_LEAST_LOG = 3
_EVENTS = 4  # rows of them


def rank_detail(
    snapshot: Snapshot | None,
    feed: Feed,
    options: Options,
    keys: Sequence[Key],
    log: Sequence[LogLine],
    columns: int,
    rows: int,
) -> Frame:
    """The whole screen. `log`: of the rank, oldest first; its newest lines fill what is left at the bottom."""
    columns = max(1, columns)
    head, foot = head_and_foot(snapshot, feed, options, keys, columns, rows)
    deployment = chosen(snapshot, options)
    rank = chosen_rank(deployment, options) if deployment else None
    if snapshot is None or deployment is None or rank is None:
        return Frame(head, [line(" no ranks yet", "dim")] if deployment else [], foot=foot).cropped(columns, rows)
    head += [_title(deployment, rank, columns), _facts(rank, columns)]
    room = max(0, rows - len(head) - len(foot))
    body = _body(deployment, rank, snapshot, options.units, columns, 0)
    happened = _events(deployment, rank, snapshot, columns)
    spare = room - len(body) - min(_LOG, len(log) + 1) - len(happened)
    if spare > 0:
        body = _body(deployment, rank, snapshot, options.units, columns, spare)
    left = room - len(body)
    below = happened if len(happened) <= left else []
    if log and left - len(below) >= _LEAST_LOG:
        below = below + _log(log, columns, left - len(below))
    return Frame(head, body, below, foot).cropped(columns, rows)


def _title(deployment: DeploymentView, rank: RankView, columns: int) -> Line:
    info = rank.info
    layers = f"layers {info.first_layer}-{info.last_layer}"
    emulated = line("EMULATED", "warn") if deployment.emulated else BLANK
    facts = keep(
        [
            Part(0, line(f"rank {info.rank}", "title")),
            Part(3, line(place(deployment, rank))),
            Part(1, line(clean(info.device))),
            Part(4, line(f"pid {info.pid}")),
            Part(5, line(layers)),
            Part(2, (state(rank.state),)),
            Part(0, emulated),
        ],
        max(1, columns - 4),
    )
    number = [each.info.rank for each in deployment.ranks].index(info.rank) + 1
    return rule(facts, line(f"{number} of {len(deployment.ranks)}", "dim"), columns)


def _body(deployment: DeploymentView, rank: RankView, snapshot: Snapshot, units: str, columns: int, spare: int) -> list[Line]:
    beside = columns >= _BESIDE
    left = columns // 2 if beside else columns
    right = columns - left - 1 if beside else columns
    step = step_panel(rank, snapshot.window_s, right, min(right, _WIDEST))
    high = min(_TALLEST, len(step) - 1 + spare) if beside else 4
    util = _util(rank, snapshot.time_ns // 1_000_000_000, left, high)
    memory = _memory(rank, units, left)
    device = device_panel(rank, units, right)
    if beside:
        body = [*_pair(util, step, left, columns), *_pair(memory, device, left, columns)]
    else:
        body = [*util, *step, *memory, *device]
    return body + _experts(deployment, rank, snapshot.window_s, columns)


def _pair(a: list[Line], b: list[Line], left: int, columns: int) -> list[Line]:
    high = max(len(a), len(b))
    a, b = (each + [BLANK] * (high - len(each)) for each in (a, b))
    return [fit((*fit(x, left), Span(" "), *y), columns) for x, y in zip(a, b, strict=True)]


def _util(rank: RankView, second: int, columns: int, high: int) -> list[Line]:
    """A second is one column or several, and where there is no room for a minute the newest seconds are shown."""
    room = max(1, columns - 6)
    each = max(1, room // _MINUTE_S)
    values = [value for value in rank.util_history[-room:] for _ in range(each)]
    title = rule((Span("util ", "title"), Span(percent(rank.util), "bold")), line(f"{min(room, _MINUTE_S)} s", "dim"), columns)
    drawn = history(values, min(room, each * _MINUTE_S), high, 100.0, second)
    scale = ["100%", *["    "] * (high - 2), "  0%"] if high > 1 else ["100%"]
    return [title, *(fit((Span(f"{name} ", "dim"), Span(row, "graph")), columns) for name, row in zip(scale, drawn, strict=True))]


class _Memory(NamedTuple):
    name: str
    value: int | None
    glyph: str
    role: str


def _memory(rank: RankView, units: str, columns: int) -> list[Line]:
    memory = rank.memory
    parts = (
        _Memory("weights", memory.weights, "█", "weights"),
        _Memory("KV", memory.kv, "▓", "kv"),
        _Memory("activations", memory.activations, "▒", "other"),
        _Memory("workspace", memory.workspace, "▒", "other"),
        _Memory("other", memory.other, "▒", "other"),
        _Memory("free", memory.free, "·", "dim"),
        _Memory("peak used", memory.peak, "─", "dim"),
    )
    total = memory.total or sum(part.value or 0 for part in parts[:-1]) or 1
    of = f"{size(memory.used, units)} of {size(memory.total, units)}"
    room = max(0, min(columns, _WIDEST) - 21)
    lines = [rule((Span("memory ", "title"), Span(of, "bold")), BLANK, columns)]
    for part in parts:
        cells = round(room * min(1.0, (part.value or 0) / total))
        bar = part.glyph * cells if cells or not part.value else "▏"
        lines.append((Span(f" {part.name:<11}", "dim"), Span(f"{size(part.value, units):>6} "), Span(bar, part.role)))
    return lines


def _experts(deployment: DeploymentView, rank: RankView, window_s: float, columns: int) -> list[Line]:
    """Tokens by local expert: their sum, the hottest, and the picture of all."""
    tokens = rank.expert_tokens
    if not tokens:
        return []
    owners = deployment.experts.owners if deployment.experts else ()
    mine = [expert for expert, owner in enumerate(owners) if owner == rank.info.ep]
    names = mine if len(mine) == len(tokens) else list(range(len(tokens)))
    most = max(tokens)
    hottest = f"hottest e{names[tokens.index(most)]} {most * len(tokens) / sum(tokens):.1f}x the mean" if most else "none"
    words = keep(
        [
            Part(0, (Span(" experts ", "title"), Span(f"{len(tokens)} here"))),
            Part(1, line(f"{short(sum(tokens))} tokens in {window_s:.0f} s")),
            Part(0, line(hottest)),
        ],
        columns,
    )
    room = columns - sum(len(span.text) for span in words) - 3
    drawn = history([float(count) for count in tokens], room, 1, most, len(tokens) - 1)[0].strip() if room >= 8 else ""
    return [(*words, Span("  "), Span(drawn, "graph"))]


def _facts(rank: RankView, columns: int) -> Line:
    lost = line(f"{whole(rank.lost)} messages lost", "warn" if rank.lost else "")
    return keep(
        [
            Part(0, (Span(f" {short(rank.tokens_per_s)}", "bold"), Span(" tok/s"))),
            Part(1, line(f"last step {age(rank.age_s)} ago" if rank.age_s is not None else f"last step {UNAVAILABLE}")),
            Part(2, line(f"bubble {percent(rank.bubble_pct)}")),
            Part(3, line(f"step {milliseconds(rank.step_ms)} ms")),
            Part(4, line(f"{whole(rank.steps)} steps")),
            Part(0 if rank.lost else 5, lost),
        ],
        columns,
    )


def _events(deployment: DeploymentView, rank: RankView, snapshot: Snapshot, columns: int) -> list[Line]:
    """The newest of this rank, whole."""
    lines: list[Line] = []
    for event in reversed(snapshot.events):
        if (event.deployment, event.rank) == (deployment.name, rank.info.rank):
            words = event_lines(event, snapshot.time_ns, columns)
            if len(lines) + len(words) > _EVENTS:
                break
            lines += words
    return [rule(line("events of this rank", "title"), line("a all", "dim"), columns), *lines] if lines else []


def _log(log: Sequence[LogLine], columns: int, rows: int) -> list[Line]:
    newest = log_lines(log[-rows:], False, "", columns)[-(rows - 1) :]
    return [rule(line("log", "title"), line("l all of it", "dim"), columns), *newest]
