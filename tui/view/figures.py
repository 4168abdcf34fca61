"""Numbers as text, short enough for a cell. `--` is unavailable, `0` is zero, and a value never loses its unit."""

from __future__ import annotations

UNAVAILABLE = "--"

_UNITS = {"GiB": (1024.0, ("B", "Ki", "Mi", "Gi", "Ti")), "GB": (1000.0, ("B", "k", "M", "G", "T"))}
UNITS = tuple(_UNITS)


def percent(value: float | None) -> str:
    return UNAVAILABLE if value is None else f"{value:.0f}%"


def whole(value: float | None) -> str:
    """`1,512`."""
    return UNAVAILABLE if value is None else f"{value:,.0f}"


def short(value: float | None) -> str:
    """At most five characters: `97`, `1,512`, `21.4k`, `3.1M`."""
    if value is None:
        return UNAVAILABLE
    for limit, divisor, suffix in ((9999.5, 1.0, ""), (999_950.0, 1e3, "k"), (999_950_000.0, 1e6, "M")):
        if abs(value) < limit:
            return f"{value:,.0f}" if not suffix else f"{value / divisor:.{1 if value < divisor * 99.95 else 0}f}{suffix}"
    return f"{value / 1e9:.1f}G"


def milliseconds(value: float | None) -> str:
    """Without its unit: the place where it stands names it. Three figures at most."""
    if value is None:
        return UNAVAILABLE
    if value >= 99.95:
        return f"{value:,.0f}"
    return "0" if value == 0 else f"{value:.2f}" if value < 0.995 else f"{value:.1f}"


def size(value: float | None, units: str) -> str:
    """Bytes: `112Gi` or `120G`, at most five characters."""
    if value is None:
        return UNAVAILABLE
    base, suffixes = _UNITS[units]
    power = 0
    while value >= 999.5 and power < len(suffixes) - 1:
        value /= base
        power += 1
    digits = 1 if value < 9.95 and power else 0
    return f"{value:.{digits}f}{suffixes[power]}"


def age(seconds: float | None) -> str:
    if seconds is None:
        return UNAVAILABLE
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
