"""How many tokens a prompt or an answer has: a number, or a distribution to draw from."""

from __future__ import annotations

import random
from dataclasses import dataclass

from runtime.stress.values import number, refuse, whole

EXAMPLE = '"512", "normal:512,128" or "uniform:256,768"'
NORMAL_REACH = 3.0  # standard deviations; without a bound nobody could say whether a load fits the context


@dataclass(frozen=True)
class Lengths:
    """Tokens from `least` to `largest`: uniform over the whole numbers, or, with `deviation`, normal around `mean` cut there."""

    least: int
    largest: int
    mean: float
    deviation: float | None = None

    def draw(self, chance: random.Random) -> int:
        if self.least == self.largest:
            return self.least
        if self.deviation is None:
            return chance.randint(self.least, self.largest)
        return min(self.largest, max(self.least, round(chance.gauss(self.mean, self.deviation))))

    def __str__(self) -> str:
        if self.least == self.largest:
            return str(self.least)
        return f"uniform:{self.least},{self.largest}" if self.deviation is None else f"normal:{self.mean:g},{self.deviation:g}"


def fixed(tokens: int) -> Lengths:
    return Lengths(tokens, tokens, tokens)


def parse_lengths(name: str, text: str) -> Lengths:
    """Raises BadPlan; `name` is the flag's."""
    kind, colon, numbers = text.partition(":")
    if not colon:
        return fixed(whole(name, text, EXAMPLE))
    parts = numbers.split(",")
    if kind not in ("normal", "uniform") or len(parts) != 2:
        raise refuse(name, f"'{text}'", "it must be a number, normal:MEAN,DEVIATION or uniform:LEAST,LARGEST", EXAMPLE)
    if kind == "uniform":
        least, largest = (whole(name, part, EXAMPLE) for part in parts)
        if least > largest:
            raise refuse(name, f"'{text}'", "the least comes first", f"uniform:{largest},{least}")
        return Lengths(least, largest, (least + largest) / 2)
    mean, deviation = (number(name, part, EXAMPLE) for part in parts)
    if mean < 1 or deviation < 0:
        nearest = f"normal:{max(mean, 1):g},{abs(deviation):g}"
        raise refuse(name, f"'{text}'", "the mean is at least 1, the deviation at least 0", nearest)
    reach = NORMAL_REACH * deviation
    return Lengths(max(1, round(mean - reach)), max(1, round(mean + reach)), mean, deviation)
