"""Filters as users type them: words that must all hold, each a comparison of a figure or the beginning of a name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

_COMPARISON = re.compile(r"([a-z0-9/-]+)([<>])(\d+(?:\.\d+)?)")


def passes(expression: str, names: Iterable[str], figure: Mapping[str, Callable[[], float | None]]) -> bool:
    """`names` are what it may be called, in small letters; nothing unavailable passes a comparison."""
    known = list(names)
    for word in expression.lower().split():
        comparison = _COMPARISON.fullmatch(word)
        if comparison and comparison[1] in figure:
            value, limit = figure[comparison[1]](), float(comparison[3])
            if value is None or (value <= limit if comparison[2] == ">" else value >= limit):
                return False
        elif word not in known and not (_begins_a_name(word) and any(name.startswith(word) for name in known)):
            return False
    return True


def _begins_a_name(word: str) -> bool:
    """Words with a number are whole names: `r1` is not `r10`."""
    return word.replace("-", "").isalpha()
