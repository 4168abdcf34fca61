"""What is known of a deployment before it is one: whether it can be, whether it fits, what it would change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tui.view.fit import Fit

AXES = ("tp", "pp", "ep", "dp")


@dataclass(frozen=True)
class Judgement:
    """`wrong`: by field, or by "" for the whole, the value, the rule that it breaks and what would do; empty: it can be.

    `spec`: all fields, JSON-ready; None where they make none. `current`: those of the running deployment that it changes, None
    for a new one. `remedy`: fields that would make it possible, or make it fit, and the words for them. `placement`: what of it
    would be settled how; `model`: what is to be loaded, in words, and its bytes.
    """

    wrong: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] | None = None
    current: Mapping[str, Any] | None = None
    fit: Fit | None = None
    remedy: Mapping[str, Any] = field(default_factory=dict)
    remedy_words: str = ""
    placement: str = ""
    model: str = ""
    bytes: float = 0.0

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Of the running deployment: before and after, by field."""
        if self.current is None or self.spec is None:
            return {}
        now, then = self.current, self.spec
        return {name: (now[name], then[name]) for name in then if name in now and now[name] != then[name]}

    @property
    def ranks(self) -> int:
        return ranks(self.spec) if self.spec else 0


def ranks(spec: Mapping[str, Any]) -> int:
    tp, pp, ep, dp = (int(spec[axis]) for axis in AXES)
    return tp * pp * ep * dp
