"""Names people type, found in a catalogue or answered with the nearest ones."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any


class PlanError(ValueError):
    """What was asked cannot be planned: names the value and the nearest that can."""


@cache
def load(name: str) -> dict[str, Any]:
    """The object in `data/<name>.json`. Callers must not change it."""
    return dict(json.loads((files("runtime.planner") / "data" / f"{name}.json").read_text(encoding="utf-8")))


def find(name: str, catalogue: Mapping[str, Iterable[str]], kind: str, hint: str = "") -> str:
    """The entry whose name or alias is `name`, whatever its case, '_' and ' ' for '-' allowed. Raises PlanError naming near ones.

    `hint`: what else would do, said with the error.
    """
    spellings = {spelling: entry for entry, aliases in catalogue.items() for spelling in (entry, *aliases)}
    wanted = name.strip().lower().replace("_", "-").replace(" ", "-")
    wanted = wanted.rpartition("/")[2] if name.count("/") == 1 else wanted
    for candidate in (name.strip().lower(), wanted, wanted.removeprefix("meta-")):
        if candidate in spellings:
            return spellings[candidate]
    # instruction-tuned variants have their base's shape
    for ending in ("-instruct", "-chat", "-it", "-hf", "-base", "-nvfp4", "-fp8", "-fp4", "-awq", "-gptq", "-int4", "-v0.1"):
        if ending in wanted and wanted.replace(ending, "") != wanted:
            try:
                return find(wanted.replace(ending, ""), catalogue, kind, hint)
            except PlanError:
                break
    close = difflib.get_close_matches(name.lower(), spellings, 4, cutoff=0.5)
    raise PlanError(f"{kind} '{name}' is not known; {nearest(name, close or catalogue)}" + (f" ({hint})" if hint else ""))


def nearest(name: str, known: Iterable[str], count: int = 4) -> str:
    """`near by: a, b` of the known names most like `name`, or all of them when none is."""
    names = list(known)
    close = difflib.get_close_matches(name.lower(), names, count, cutoff=0.5)
    return f"near by: {', '.join(close)}" if close else f"known are {', '.join(names)}"
