"""The deploy screen: the form at the left, at the right what the machine would make of it, below how far an order is."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from telemetry.snapshot import DeploymentView, Snapshot
from tui.keys import Key, hint
from tui.view.bars import Share, gauge
from tui.view.course import Course, course_lines
from tui.view.figures import size, whole
from tui.view.form import Form, form_lines, help_line, problems_first
from tui.view.frame import Frame
from tui.view.judgement import AXES, Judgement
from tui.view.line import BLANK, Line, Part, Span, clean, crop, fit, keep, line, rule
from tui.view.options import Feed, Options
from tui.view.screen import head_and_foot
from tui.view.settings import DEFAULTS, LIVE, as_text
from tui.view.verdict import Verdict
from tui.view.wrap import wrapped

if TYPE_CHECKING:
    from tui.view.fit import Fit

_SIDE_BY_SIDE = 76  # columns
_LEFT = (34, 52)
_GAUGE = 12
_COMPLETIONS = 6  # rows


@dataclass(frozen=True)
class Desk:
    """What the screen is at. `name`: of the deployment that would change, "" for a new one; `others`: whether there is one to
    change. `judgement`: None before the first. `obstacle`: why nothing can be ordered from here. `found`: completions of the path
    that is typed. `source`: where values came from that the user did not type."""

    form: Form
    name: str = ""
    changeable: str = ""
    judgement: Judgement | None = None
    course: Course | None = None
    obstacle: str = ""
    found: tuple[str, ...] = ()
    choice: int = -1  # of `found`
    source: str = ""


def deploy(
    desk: Desk, snapshot: Snapshot | None, feed: Feed, options: Options, keys: Sequence[Key], columns: int, rows: int
) -> Frame:
    """The whole screen, `columns` wide and made for `rows`."""
    columns = max(1, columns)
    head, foot = head_and_foot(snapshot, feed, options, keys, columns, rows, said(desk, hint(keys, "fix", " ({})")))
    room = max(0, rows - len(head) - len(foot))
    panels = _panels(desk, snapshot, options.units, columns, room)
    left_columns = min(max(_LEFT[0], columns * 2 // 5), _LEFT[1]) if columns >= _SIDE_BY_SIDE else columns
    right_columns = columns - left_columns - 3 if columns >= _SIDE_BY_SIDE else columns
    wrong = desk.judgement.wrong if desk.judgement else {}
    left = [_mode(desk, left_columns), *form_lines(desk.form, wrong, left_columns)]
    right = _right(desk, snapshot, options.units, right_columns)
    at = 1 + desk.form.at
    if columns < _SIDE_BY_SIDE:
        return Frame(head, left + right, panels, foot, (at, at + 1)).cropped(columns, rows)
    tall = max(len(left), len(right))
    left += [BLANK] * (tall - len(left))
    right += [BLANK] * (tall - len(right))
    body = [(*fit(a, left_columns), Span(" │ ", "dim"), *b) for a, b in zip(left, right, strict=True)]
    return Frame(head, body, panels, foot, (at, at + 1)).cropped(columns, rows)


def said(desk: Desk, fix: str = "") -> Verdict:
    """What is to be said of the form. `fix`: the key that takes what would do."""
    found = desk.judgement
    if found is None:
        return Verdict("info", "reading the checkpoint and the machine")
    wrong = problems_first(desk.form, found.wrong)
    if wrong:
        more = f"; {len(set(wrong)) - 1} more" if len(set(wrong)) > 1 else ""
        return Verdict("bad", wrong[0] + more, remedy=found.remedy_words + fix if found.remedy else "")
    if found.fit is None:
        return Verdict("info", found.placement or "it can be")
    verdict = found.fit.verdict
    if verdict.word == "no":
        return Verdict("bad", "it does not fit", verdict.reason, verdict.change + (fix if found.remedy else ""))
    if verdict.word == "tight":
        return Verdict("warn", "tight", verdict.reason)
    return Verdict("good", "fits", verdict.reason)


def _mode(desk: Desk, columns: int) -> Line:
    def choice(on: bool, words: str) -> tuple[Span, ...]:
        return (Span("(•) " if on else "( ) ", "accent" if on else "dim"), Span(clean(words), "bold" if on else "dim"))

    change = choice(bool(desk.name), f"change {desk.changeable}") if desk.changeable else ()
    new = choice(not desk.name, "new" if change else "a new deployment")
    parts = (Span(" "), *change, Span("  "), *new) if change else (Span(" "), *new)
    return (
        tuple(span._replace(action="screen.new_or_change") for span in crop(parts, columns)) if change else crop(parts, columns)
    )


def _right(desk: Desk, snapshot: Snapshot | None, units: str, columns: int) -> list[Line]:
    found = desk.judgement
    if found is None:
        return []
    lines = [rule(line("memory a rank", "title"), BLANK, columns)]
    if found.model:
        lines.append(crop(line(f"{found.model}", "dim"), columns))
    lines += fit_lines(found.fit, units, columns) if found.fit else [line("not known before it can be", "dim")]
    for text in list(dict.fromkeys(problems_first(desk.form, found.wrong)))[1:]:  # the first is the verdict
        parts = wrapped(text, columns - 2, 5)
        lines += [(Span("× " if i == 0 else "  ", "bad"), Span(part)) for i, part in enumerate(parts)]
    if found.placement:
        lines += [line(part, "dim") for part in wrapped(found.placement, columns, 2)]
    return lines + _consequences(desk, found, snapshot, columns)


def fit_lines(found: Fit, units: str, columns: int) -> list[Line]:
    """A line a stage, the device, the cache."""
    room = columns - 42
    lines = [line("layers     weights     KV   work    left", "dim")]
    for number, stage in enumerate(found.stages):
        layers = f"{number}: {stage.layers.start}-{stage.layers.stop - 1}"
        over = stage.left < 0
        left = f"-{size(-stage.left, units)}!" if over else size(stage.left, units)
        parts = [
            Span(f"{layers:<10} {size(stage.weights, units):>7} {size(stage.kv, units):>6} {size(stage.work, units):>6} "),
            Span(f"{left:>7}", "bad" if over else ""),
        ]
        if room >= _GAUGE:
            shares = [Share(stage.weights, "█", "weights"), Share(stage.kv, "▓", "kv"), Share(stage.work, "▒", "other")]
            parts += [Span(" "), *gauge(shares, max(stage.total, stage.total - stage.left), min(room - 1, 40))]
        lines.append(crop(tuple(parts), columns))
    lines += [line(part, "dim") for part in wrapped(found.device, columns, 2)]
    groups = f" in {found.groups} groups" if found.groups > 1 else ""
    held = f"{whole(found.sequences)} sequence{'' if found.sequences == 1 else 's'} of {whole(found.length)}"
    cache = f"KV {whole(found.groups * found.tokens)} tokens{groups} = {held}"
    lines += [line(part, "bold") for part in wrapped(cache, columns, 2)]
    return lines


def _consequences(desk: Desk, found: Judgement, snapshot: Snapshot | None, columns: int) -> list[Line]:
    """What it would change, restart, and whom it would keep waiting."""
    lines = [rule(line("what it would do", "title"), BLANK, columns)]
    for text in consequences(desk, snapshot):
        lines += [line(part) for part in wrapped(text, columns, 3)]
    if desk.obstacle:
        lines += [line(part, "warn") for part in wrapped(f"! not from here: {desk.obstacle}", columns, 3)]
    return lines


def consequences(desk: Desk, snapshot: Snapshot | None) -> list[str]:
    """In words, a line each; the first is what the confirmation asks."""
    found = desk.judgement
    if found is None or found.spec is None:
        return ["nothing: the form makes no deployment yet"]
    if not desk.name:
        return _launch(found)
    if not found.changes:
        return [f"nothing: {desk.name} serves under these already"]
    view = _view(snapshot, desk.name)
    words = [f"{name} {_value(before)} -> {_value(after)}" for name, (before, after) in found.changes.items()]
    ends, starts = (len(view.ranks) if view else found.ranks), found.ranks
    generation = f" as generation {view.generation + 1}" if view else ""
    words.append(
        f"{ends} {'rank ends' if ends == 1 else 'ranks end'}, {starts} {'starts' if starts == 1 else 'start'}{generation}"
    )
    if view is not None and (view.engine.running or view.engine.waiting):
        counts = f"{whole(view.engine.running)} running and {whole(view.engine.waiting)} waiting"
        words.append(f"{counts} requests are kept: they pause, then go on")
    words.append("requests that come meanwhile wait; if anything fails it goes back by itself")
    return words


def _launch(found: Judgement) -> list[str]:
    assert found.spec is not None
    name, count = found.spec["name"], found.ranks
    loads = [f"loads {size(found.bytes, 'GiB')}B of weights"] if found.bytes else []
    return [f"starts {count} {'rank' if count == 1 else 'ranks'} as '{name}'", *loads]


def _view(snapshot: Snapshot | None, name: str) -> DeploymentView | None:
    return next((each for each in snapshot.deployments if each.name == name), None) if snapshot else None


def _value(value: Any) -> str:
    return (
        "auto" if value is None else {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    )


def command(desk: Desk) -> str:
    """The command line that does the same."""
    found = desk.judgement
    if found is None or found.spec is None:
        return ""
    if desk.name:
        fields: Mapping[str, Any] = {name: after for name, (_before, after) in found.changes.items()}
        words = ["shardscope", "reconfigure", desk.name]
    else:
        spec = found.spec
        fields = {of.name: spec[of.name] for of in LIVE if spec[of.name] is not None and spec[of.name] != DEFAULTS.get(of.name)}
        words = ["shardscope", "deploy", str(spec["model"]), "--name", str(spec["name"])]
    for name, value in fields.items():
        flag = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", as_text({name: value})[name]]
    return shlex.join(words)


def confirmation(desk: Desk, snapshot: Snapshot | None, columns: int) -> list[Line]:
    """Exactly what is about to be done."""
    found = desk.judgement
    if found is None or found.spec is None:
        return []
    spec, lines = found.spec, [line(f"Change '{desk.name}'?" if desk.name else f"Deploy '{found.spec['name']}'?", "title")]
    facts = [f"model {spec['model']}: {found.model}"] if not desk.name else []
    facts += consequences(desk, snapshot)
    layout = " ".join(f"{axis}{spec[axis]}" for axis in AXES)
    facts.append(f"layout {layout}: {found.placement}")
    for text in facts:
        lines += [line(("· " if i == 0 else "  ") + part) for i, part in enumerate(wrapped(clean(text), columns - 2, 4))]
    verdict = said(desk)
    if verdict.level in ("bad", "warn"):
        warning = f"! {verdict.cause}: {verdict.evidence}" + (f". Would do: {verdict.remedy}" if verdict.remedy else "")
        lines += [line(part, verdict.level) for part in wrapped(warning, columns, 4)]
    lines += [BLANK, *(line(part, "dim") for part in wrapped(clean(command(desk)), columns, 4)), BLANK]
    yes, no = "screen.answer(True)", "screen.answer(False)"
    return [
        *lines,
        (Span("y", "key", yes), Span(" do it   ", "", yes), Span("esc", "key", no), Span(" leave it as it is", "", no)),
    ]


def _panels(desk: Desk, snapshot: Snapshot | None, units: str, columns: int, room: int) -> list[Line]:
    """Completions while a path is typed; else how far an order is, and what the marked field means."""
    most = max(0, room // 3)
    if desk.found:
        first = max(0, min(desk.choice - _COMPLETIONS + 1, len(desk.found) - _COMPLETIONS)) if desk.choice >= 0 else 0
        shown = desk.found[first : first + min(_COMPLETIONS, most)]
        rest = len(desk.found) - len(shown)
        lines = [
            rule(
                line("tab completes, up and down choose", "dim"),
                line(f"{rest} more" if rest else "", "dim") if rest else BLANK,
                columns,
            )
        ]
        for i, path in enumerate(shown, first):
            lines.append(
                crop(
                    (Span("> " if i == desk.choice else "  ", "accent"), Span(clean(path), "bold" if i == desk.choice else "")),
                    columns,
                )
            )
        return lines[:most]
    lines = []
    if desk.course is not None and snapshot is not None:
        lines += course_lines(desk.course, snapshot.time_ns, units, columns, max(1, most - 1))
    wrong = desk.judgement.wrong if desk.judgement else {}
    if room >= 10:
        parts = [Part(0, line(f" {clean(help_line(desk.form, wrong))}", "dim"))]
        if desk.source:
            parts.append(Part(1, line(desk.source, "warn")))
        lines.append(crop(keep(parts, columns), columns))
    return lines
