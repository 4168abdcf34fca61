"""What good service is, and how much of the load got it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from runtime.stress.sample import Sample
from runtime.stress.values import number, pairs, positive, refuse

EXAMPLE = "ttft=500,itl=30"
Z_95 = 1.959964  # standard normal quantile of a two-sided 95 % interval


@dataclass(frozen=True)
class Slo:
    """Milliseconds that a request may take at most; None: any. `itl`: the mean gap between its events, the others as in
    `Sample`.
    """

    ttft: float | None = None
    itl: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    @property
    def limits(self) -> Mapping[str, float]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: limit for name, limit in named.items() if limit is not None}

    def met_by(self, sample: Sample) -> bool:
        """A figure that an answer of one token cannot have is met."""
        if not sample.ok:
            return False
        gaps = sample.gaps_s
        measured = {
            "ttft": sample.ttft_s,
            "itl": sum(gaps) / len(gaps) if gaps else None,
            "tpot": sample.tpot_s,
            "e2e": sample.e2e_s,
        }
        return all((value := measured[name]) is None or value * 1000 <= limit for name, limit in self.limits.items())


def parse_slo(text: str) -> Slo:
    """`ttft=500,itl=30,e2e=8000`, in milliseconds. Raises BadPlan."""
    known = [field.name for field in fields(Slo)]
    limits = {}
    for key, value in pairs("--slo", text, ",", EXAMPLE).items():
        if key not in known:
            raise refuse("--slo", f"'{text}'", f"'{key}' is none of {', '.join(known)}", EXAMPLE)
        limits[key] = positive(f"--slo {key}", number(f"--slo {key}", value, EXAMPLE), 1)
    if not limits:
        raise refuse("--slo", f"'{text}'", "it must name a limit", EXAMPLE)
    return Slo(**limits)


def wilson(good: int, total: int) -> tuple[float, float] | None:
    """Wilson's 95 % interval of a share, centre (p + z^2/2n) / (1 + z^2/n); unlike p +- z sd it holds near 0 and 1."""
    if total == 0:
        return None
    share, square = good / total, Z_95**2
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = Z_95 / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def good_count(samples: Sequence[Sample], slo: Slo) -> int:
    return sum(slo.met_by(sample) for sample in samples)
