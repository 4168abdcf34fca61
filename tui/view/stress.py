"""Screen 7: a load to ask for, the load that runs, the load that is over."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runtime.stress.progress import LoadState
from telemetry.snapshot import DeploymentView, Snapshot
from tui.keys import Key, hint
from tui.view.figures import whole
from tui.view.form import Form, form_lines, help_line
from tui.view.frame import Frame
from tui.view.line import BLANK, Line, Span, clean, fit, line, rule
from tui.view.options import Feed, Options, chosen
from tui.view.screen import head_and_foot
from tui.view.stress_form import load_form, load_words
from tui.view.stress_found import found_lines
from tui.view.stress_live import live_lines

_BESIDE = 100  # columns from which what is said stands beside the form
_FORM = 56
_OFFERED = 5  # completions at once


@dataclass(frozen=True)
class Stress:
    """What the screen has beside the snapshot. `obstacle`: why no load can be started from here; `wrong`: by field;
    `found`: completions of the path that is typed, and the one chosen; `recorded`: bytes of the recording under way."""

    form: Form = field(default_factory=load_form)
    wrong: Mapping[str, str] = field(default_factory=dict)
    obstacle: str = ""
    found: tuple[str, ...] = ()
    choice: int = -1
    load: LoadState | None = None
    window: str = "10 s"
    recorded: int | None = None


def stress(
    snapshot: Snapshot | None, feed: Feed, options: Options, keys: Sequence[Key], shown: Stress, columns: int, rows: int
) -> Frame:
    """The whole screen."""
    columns = max(1, columns)
    head, foot = head_and_foot(snapshot, feed, options, keys, columns, rows)
    room = max(0, rows - len(head) - len(foot))
    if shown.load is None:
        body, focus = _asked(chosen(snapshot, options), shown, keys, columns)
        return Frame(head, body, foot=foot, focus=focus).cropped(columns, rows)
    views = snapshot.deployments if snapshot is not None else ()
    loaded = next((view for view in views if view.name == shown.load.name), None)
    if shown.load.alive:
        body = live_lines(shown.load, loaded, shown.window, shown.recorded, options.units, columns, room)
    else:
        body = found_lines(shown.load, loaded, hint(keys, "new", "{} for another load"), columns, room)
    return Frame(head, body, foot=foot).cropped(columns, rows)


def _asked(
    deployment: DeploymentView | None, shown: Stress, keys: Sequence[Key], columns: int
) -> tuple[list[Line], tuple[int, int]]:
    """The form, and the rows of it that must be in sight."""
    name = clean(deployment.name) if deployment is not None else "nothing"
    title = rule(line("stress", "title"), line(f"of {name}", "dim"), columns)
    beside = columns >= _BESIDE
    fields = form_lines(shown.form, shown.wrong, _FORM if beside else columns)
    beside_it = columns - _FORM - 2 if beside else columns
    said = [*_said(deployment, shown, keys, beside_it), *_completions(shown, beside_it)]
    if beside:
        high = max(len(fields), len(said))
        pairs = zip(fields + [BLANK] * (high - len(fields)), said + [BLANK] * (high - len(said)), strict=True)
        body = [title, *((*fit(a, _FORM), Span("  "), *b) for a, b in pairs)]
        return body, (1 + shown.form.at, 2 + shown.form.at)
    body = [title, *said, *fields]
    first = len(body) - len(fields) + shown.form.at
    return body, (first, first + 1)


def _said(deployment: DeploymentView | None, shown: Stress, keys: Sequence[Key], columns: int) -> list[Line]:
    """What stands in the way, else what will happen, and what the marked field means."""
    lines: list[Line] = []
    if shown.obstacle:
        lines += _wrapped("× ", f"No load can be started from here: {shown.obstacle}.", columns, "warn")
    elif deployment is None:
        lines += _wrapped("· ", "Nothing is deployed: there is nothing to put a load on.", columns, "dim")
    elif "" in shown.wrong:
        lines += _wrapped("× ", shown.wrong[""], columns, "bad")
    elif words := load_words(shown.form):
        lines += _wrapped("· ", hint(keys, "start", f"{{}} starts: {words}. It is recorded as a profile."), columns, "accent")
    marked, wrong = shown.form.marked.name in shown.wrong, help_line(shown.form, shown.wrong)
    return lines + _wrapped("x " if marked else "  ", wrong, columns, "bad" if marked else "dim")


def _completions(shown: Stress, columns: int) -> list[Line]:
    """Some of what the path that is typed may become."""
    first = max(0, min(shown.choice - _OFFERED // 2, len(shown.found) - _OFFERED))
    some = list(enumerate(shown.found))[first : first + _OFFERED]
    return [
        line(f" {'>' if place == shown.choice else ' '} {clean(path)}"[:columns], "title" if place == shown.choice else "dim")
        for place, path in some
    ]


def confirmation(deployment: DeploymentView, words: str, columns: int) -> list[Line]:
    """Before a load hits work of others."""
    busy = deployment.engine.running + deployment.engine.waiting
    said = (
        f"{clean(deployment.name)} is at work on {whole(busy)} requests of others. This load would slow them down, and they it: "
        f"{words}."
    )
    keys: Line = (Span(" y", "key"), Span(" start it all the same   "), Span("esc", "key"), Span(" leave it"))
    return [*_wrapped("! ", said, columns, "warn"), BLANK, keys]


def _wrapped(mark: str, words: str, columns: int, role: str) -> list[Line]:
    rows = textwrap.wrap(clean(words), max(1, columns - 3)) or [""]
    return [(Span(f" {mark if place == 0 else '  '}", role), Span(row, role)) for place, row in enumerate(rows)]
