"""A form: fields with text as it was typed, one of them marked, over the values that it began with. Plain data and its lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tui.view.line import Line, Span, clean, crop, fit, width

_MARK, _NO_MARK = "> ", "  "


class Field(NamedTuple):
    """`kind`: "text", "path", "count", "share", "choice", "size". A blank one means `blank`; `first`: what right makes of it."""

    name: str
    label: str
    kind: str
    help: str
    choices: tuple[str, ...] = ()
    blank: str = ""
    first: int = 1


@dataclass(frozen=True)
class Form:
    """`base`: the text of each field to begin with; `edits`: what was changed since."""

    fields: tuple[Field, ...]
    base: Mapping[str, str] = field(default_factory=dict)
    edits: Mapping[str, str] = field(default_factory=dict)
    at: int = 0

    @property
    def values(self) -> dict[str, str]:
        return {each.name: self.edits.get(each.name, self.base.get(each.name, "")) for each in self.fields}

    @property
    def marked(self) -> Field:
        return self.fields[self.at]

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the fields that differ from how the form began."""
        return tuple(name for name, text in self.values.items() if text != self.base.get(name, ""))

    def put(self, **edits: str) -> Form:
        known = {each.name for each in self.fields}
        return replace(self, edits={**self.edits, **{name: text for name, text in edits.items() if name in known}})

    def reset(self) -> Form:
        return replace(self, edits={})

    def on(self, base: Mapping[str, str]) -> Form:
        """The same edits over other values."""
        return self if base == self.base else replace(self, base=dict(base))

    def move(self, step: int) -> Form:
        """The mark goes up or down, and stays at the ends."""
        return replace(self, at=max(0, min(len(self.fields) - 1, self.at + step)))

    def mark(self, at: int) -> Form:
        return replace(self, at=at) if 0 <= at < len(self.fields) else self

    def turn(self, step: int) -> Form:
        """The marked field's next or previous value; a path and a name have none."""
        name = self.marked.name
        return self.put(**{name: turned(self.marked, self.values[name], step)})


def turned(of: Field, text: str, step: int) -> str:
    """Choices go round. Counts and sizes go by powers of two, from blank where blank means something. Shares by a twentieth."""
    if of.kind == "choice":
        at = of.choices.index(text) if text in of.choices else 0
        return of.choices[(at + step) % len(of.choices)]
    if of.kind == "share":
        return _share(text, step)
    return _doubled(of, text, step) if of.kind in ("count", "size") else text


def _share(text: str, step: int) -> str:
    try:
        twentieths = round(20 * float(text)) + step
    except (ValueError, OverflowError):
        return "0.9"
    return f"{max(1, min(20, twentieths)) / 20:g}"


def _doubled(of: Field, text: str, step: int) -> str:
    if not text.strip():
        return str(of.first) if step > 0 else text
    number = whole_number(text)
    if number is None:
        return str(of.first)
    power = 1 << max(0, number.bit_length() - 1)  # the greatest that is no greater
    if step > 0:
        return str(2 * power)
    below = power if power < number else power // 2
    if below < 1 or (of.blank and number <= of.first):
        return "" if of.blank else str(of.first)
    return str(below)


def whole_number(text: str) -> int | None:
    """Of digits, with `_` and `,` between them if one likes, and Ki, Mi, Gi, Ti behind; None of anything else."""
    plain = text.strip().replace(",", "").replace("_", "")
    factor = 1
    for power, suffix in enumerate(("ki", "mi", "gi", "ti"), 1):
        for ending in (suffix, suffix + "b"):
            if plain.lower().endswith(ending):
                plain, factor = plain[: -len(ending)].strip(), 1 << 10 * power
                break
    return factor * int(plain) if plain.isascii() and plain.isdigit() and len(plain) <= 18 else None


def form_lines(form: Form, wrong: Mapping[str, str], columns: int, click: str = "screen.mark_field") -> list[Line]:
    """A line a field: mark, label, value; `*` where it differs from how the form began, `x` where it is `wrong`."""
    labels = max((len(each.label) for each in form.fields), default=0)
    return [_line(form, i, each, each.name in wrong, labels, columns, click) for i, each in enumerate(form.fields)]


def _line(form: Form, at: int, of: Field, wrong: bool, labels: int, columns: int, click: str) -> Line:
    here, action = at == form.at, f"{click}({at})"
    text = clean(form.values[of.name])
    flag = Span("x ", "bad") if wrong else Span("* ", "warn") if of.name in form.changed else Span("  ")
    room = max(1, columns - len(_MARK) - labels - 1 - 2)
    value = Span(_end(text, room), "bold" if here else "") if text else Span(_end(of.blank or "--", room), "dim")
    label = Span(of.label.ljust(labels) + " ", "title" if here else "dim")
    line = (Span(_MARK if here else _NO_MARK, "accent"), label, flag, value)
    return tuple(span._replace(action=action) for span in fit(line, max(columns, width(line[:3]))))


def flow_lines(form: Form, wrong: Mapping[str, str], columns: int, click: str = "screen.mark_field") -> list[Line]:
    """The fields one after another, over as many lines as they need: for a few short ones."""
    lines: list[Line] = [()]
    for at, of in enumerate(form.fields):
        here, text = at == form.at, clean(form.values[of.name])
        shown = _end(text or of.blank or "--", max(4, columns // 2))
        spans = (
            Span("▸" if here else " ", "accent"),
            Span(of.label + " ", "title" if here else "dim"),
            Span("x " if of.name in wrong else "", "bad"),
            Span(f"‹{shown}›" if here else shown, "bold" if here else "" if text else "dim"),
            Span("  "),
        )
        if width(lines[-1]) + width(spans) > columns and lines[-1]:
            lines.append(())
        lines[-1] = (*lines[-1], *(span._replace(action=f"{click}({at})") for span in spans if span.text))
    return [crop(each, columns) for each in lines]


def _end(text: str, room: int) -> str:
    """Of a long path the end says more than the beginning."""
    return text if len(text) <= room else "…" + text[len(text) - room + 1 :]


def help_line(form: Form, wrong: Mapping[str, str]) -> str:
    """What the marked field means, or what is wrong with it."""
    of = form.marked
    return wrong.get(of.name) or f"{of.label}: {of.help}"


def problems_first(form: Form, wrong: Mapping[str, str]) -> Sequence[str]:
    """All that is wrong, in the order of the fields; what belongs to no field comes last."""
    order = [each.name for each in form.fields]
    return [wrong[name] for name in sorted(wrong, key=lambda name: order.index(name) if name in order else len(order))]
