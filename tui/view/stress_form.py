"""The load that a user asks for, as a form: its fields are the flags of `shardscope stress`, and the same rules refuse them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runtime.stress.options import STRESS
from tui.view.form import Field, Form

if TYPE_CHECKING:
    from runtime.stress.asked import Asked

PATTERNS = ("closed", "steps", "poisson", "constant", "gamma", "ramp", "trace")
_HELP = {name: text for name, _kind, text in STRESS}
_NUMBERS = {name: kind for name, kind, _text in STRESS if kind in (int, float)}
_FLAG = re.compile(r"--([a-z-]+)")


def _field(name: str, label: str, kind: str = "text", **more: Any) -> Field:
    return Field(name, label, kind, more.pop("help", _HELP.get(name, "")), **more)


_PATTERN = _field(
    "pattern",
    "pattern",
    "choice",
    choices=PATTERNS,
    help="closed: so many at once; steps: more and more at once; poisson, constant, gamma, ramp: requests/s whatever happens",
)
_RATE = _field("rate", "requests/s", help="of the open loop, whatever the server does")
_OWN = {  # of a pattern, after `pattern`
    "closed": (_field("concurrency", "at once", "count", help="clients, each sends its next request when it has its answer"),),
    "steps": (_field("steps", "at once", help="a list (1,8,32), or auto: 1, 2, 4, ... until the knee is passed"),),
    "poisson": (_RATE,),
    "constant": (_RATE,),
    "gamma": (_RATE, _field("burstiness", "burstiness")),
    "ramp": (_RATE, _field("ramp", "to requests/s")),
    "trace": (_field("trace", "trace", "path"),),
}
_LASTS = (
    _field("duration", "seconds", help="that requests are sent for, in each step", blank="no limit"),
    _field("requests", "requests", "count", help="at most so many, in each step", blank="no limit", first=64),
)
_LENGTHS = (_field("input_tokens", "prompt tokens"), _field("output_tokens", "answer tokens"))
_SEED = _field("seed", "seed", "count")
_SLO = _field("slo", "SLO ms", blank="none")
_WARMUP = _field("warmup", "warm-up s", blank="none")
_FAULT = _field("fault", "faults", help=f"{_HELP['fault'].removesuffix('; may repeat')}; several with ;", blank="none")
_SWEEP = _field("sweep", "layouts", help="change to each of these (tp4,pp4,tp2pp2) and measure it, then back", blank="as it is")
BASE = {
    "pattern": "closed", "concurrency": "8", "steps": "auto", "rate": "1", "burstiness": "0.5", "ramp": "10", "duration": "30",
    "input_tokens": "512", "output_tokens": "128", "seed": "0",
}  # fmt: skip


class Wrong(ValueError):
    """The fields that cannot be, with why; "" is of none in particular."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__("; ".join(fields.values()))
        self.fields = dict(fields)


def load_form(edits: Mapping[str, str] | None = None, at: int = 0) -> Form:
    """With the fields that the pattern has; those of other patterns keep what was typed."""
    edits = dict(edits or {})
    pattern = edits.get("pattern", BASE["pattern"])
    looped = pattern in ("closed", "steps")
    lasts = _LASTS if pattern != "trace" else ()
    lengths = _LENGTHS if pattern != "trace" else ()
    last = _SWEEP if looped else _FAULT
    fields = (_PATTERN, *_OWN[pattern], *lasts, *lengths, _SEED, _SLO, _WARMUP, *((_FAULT,) if looped else ()), last)
    return Form(fields, BASE, edits, min(at, len(fields) - 1))


def asked_for(form: Form) -> Asked:
    """Raises Wrong. Reads the trace, if there is one."""
    from runtime.stress.asked import asked
    from runtime.stress.values import BadPlan

    try:
        return asked(_given(form))
    except BadPlan as error:
        raise Wrong({field_of(form, str(error)): str(error)}) from None


def _given(form: Form) -> dict[str, Any]:
    """The flags. Raises Wrong for text that is no number."""
    texts = {name: text.strip() for name, text in form.values.items() if text.strip()}
    pattern = texts.pop("pattern")
    given: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name, text in texts.items():
        if name == "steps":
            given["concurrency"] = text.replace(" ", "")
        elif name == "fault":
            given["fault"] = [each.strip() for each in text.split(";") if each.strip()]
        elif name in _NUMBERS:
            try:
                given[name] = _NUMBERS[name](text)
            except ValueError:
                kind = "whole number" if _NUMBERS[name] is int else "number"
                wrong[name] = f"'{text}' is no {kind}; nearest that works: {BASE.get(name, '1')}"
        else:
            given[name] = text
    if wrong:
        raise Wrong(wrong)
    if pattern in ("poisson", "constant", "gamma"):
        given["arrivals"] = pattern
    needed = {"closed": "concurrency", "steps": "concurrency", "trace": "trace"}.get(pattern, "rate")
    if needed not in given:
        name = form.fields[1].name
        raise Wrong({name: f"{form.fields[1].label} is not given; nearest that works: {BASE.get(name, 'a file of JSON lines')}"})
    return given


def field_of(form: Form, words: str) -> str:
    """Which of the fields a refusal names first."""
    names = [each.name for each in form.fields]
    for flag in _FLAG.findall(words):
        name = flag.replace("-", "_")
        name = "steps" if name == "concurrency" and "steps" in names else name
        if name in names:
            return name
    return ""


def load_words(form: Form) -> str:
    """What it asks for, in one line; empty when it cannot be."""
    try:
        wanted = asked_for(form)
    except Wrong:
        return ""
    plan = wanted.plan
    steps = "" if wanted.steps is None else f", steps {', '.join(map(str, wanted.steps)) or '1, 2, 4, ... to the knee'}"
    layouts = f", under {', '.join(map(str, wanted.sweep))}" if wanted.sweep else ""
    lasts = " or ".join(
        [
            *([f"{plan.duration_s:g} s"] if plan.duration_s is not None else []),
            *([f"{plan.requests} requests"] if plan.requests is not None else []),
        ]
    )
    what = "closed loop" if steps else plan.pattern.label
    return f"{what}{steps}{layouts}" + (f", {lasts}" if lasts else "")
