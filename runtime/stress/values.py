"""Numbers out of a user's text. What cannot be is refused with the value, the rule, and the nearest value that works."""

from __future__ import annotations

import math


class BadPlan(ValueError):
    """The load that was asked for cannot be. The message names the value, the rule, and the nearest that works."""


def refuse(name: str, value: object, rule: str, nearest: object) -> BadPlan:
    return BadPlan(f"{name} {value}: {rule}; nearest that works: {nearest}")


def number(name: str, text: str, example: str) -> float:
    """A finite number. `example` is what is named as working when it is none."""
    try:
        value = float(text)
    except ValueError:
        raise refuse(name, f"'{text}'", "it must be a number", example) from None
    if not math.isfinite(value):
        raise refuse(name, f"'{text}'", "it must be finite", example)
    return value


def whole(name: str, text: str, example: str, least: int = 1) -> int:
    value = number(name, text, example)
    if value < least or value != int(value):
        raise refuse(name, f"'{text}'", f"it must be a whole number of at least {least}", max(least, round(value)))
    return int(value)


def positive(name: str, value: float, nearest: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise refuse(name, f"{value:g}", "it must be above 0", f"{nearest:g}")
    return value


def pairs(name: str, text: str, separator: str | None, example: str) -> dict[str, str]:
    """`a=1,b=2` as a dict; `separator` None: between words."""
    found: dict[str, str] = {}
    for each in filter(None, (part.strip() for part in text.split(separator))):
        key, equals, value = each.partition("=")
        if not equals or not value:
            raise refuse(name, f"'{text}'", f"'{each}' is not of the form key=value", example)
        if key in found:
            raise refuse(name, f"'{text}'", f"'{key}' is given twice", example)
        found[key] = value
    return found
