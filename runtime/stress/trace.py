"""A recorded load: JSON lines of {timestamp (ms), input_length, output_length, hash_ids}, as Mooncake published its traces."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.stress.values import BadPlan

BLOCK = 512  # tokens that one hash id stands for, in Mooncake's traces
ALIASES = {"input_length": "input_tokens", "output_length": "output_tokens"}
EXAMPLE = '{"timestamp": 0, "input_length": 512, "output_length": 64, "hash_ids": [1]}'


@dataclass(frozen=True)
class Entry:
    """One request. Equal ids at the beginnings of two `hash_ids` are equal beginnings of their prompts, `BLOCK` tokens each."""

    at_s: float
    input_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...] = ()
    line: int = 0


@dataclass(frozen=True)
class Trace:
    """Requests in the order of their times, the first at 0 s."""

    entries: tuple[Entry, ...]
    source: str = "trace"

    @property
    def label(self) -> str:
        return f"open loop, trace {self.source}"


def read_trace(path: Path) -> Trace:
    """Raises BadPlan, naming the line."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadPlan(f"--trace {path}: it cannot be read ({error}); nearest that works: a file of {EXAMPLE}") from None
    return parse_trace(text, path.name)


def parse_trace(text: str, source: str = "trace") -> Trace:
    """Raises BadPlan, naming the line."""
    entries = [_entry(line, place, source) for place, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not entries:
        raise BadPlan(f"--trace {source}: it has no requests; nearest that works: a line like {EXAMPLE}")
    entries.sort(key=lambda entry: entry.at_s)
    first = entries[0].at_s
    moved = (Entry(e.at_s - first, e.input_tokens, e.output_tokens, e.hash_ids, e.line) for e in entries)
    return Trace(tuple(moved), source)


def _entry(line: str, place: int, source: str) -> Entry:
    def wrong(rule: str) -> BadPlan:
        return BadPlan(f"--trace {source} line {place}: {rule}; nearest that works: {EXAMPLE}")

    def tokens(name: str) -> int:
        value = fields.get(name, fields.get(ALIASES[name]))
        if type(value) is not int or value < 1:
            raise wrong(f"{name} is {json.dumps(value)}, it must be a whole number of at least 1")
        return value

    try:
        fields = json.loads(line)
    except ValueError as error:
        raise wrong(f"it is no JSON ({error})") from None
    if not isinstance(fields, dict):
        raise wrong("it is no JSON object")
    stamp: Any = fields.get("timestamp")
    if type(stamp) not in (int, float) or not math.isfinite(stamp) or stamp < 0:
        raise wrong(f"timestamp is {json.dumps(stamp)}, it must be milliseconds of at least 0")
    ids = fields.get("hash_ids") or []
    if not isinstance(ids, list) or not all(type(each) is int for each in ids):
        raise wrong("hash_ids must be a list of whole numbers")
    return Entry(stamp / 1000, tokens("input_length"), tokens("output_length"), tuple(ids), place)
