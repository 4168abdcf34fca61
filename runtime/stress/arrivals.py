"""When the requests of an open loop are due: a pure function of rate, kind, ramp and chance. Nobody waits for an answer."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("poisson", "gamma", "constant")


@dataclass(frozen=True)
class OpenLoop:
    """`rate` requests/s whatever the server does. Gaps have mean 1/rate and coefficient of variation 1/sqrt(burstiness):

    poisson is burstiness 1, below it requests come in bursts, constant has equal gaps. With `ramp_to` the rate goes linearly
    from `rate` to that over the load's duration, and stays there.
    """

    rate: float
    arrivals: str = "poisson"
    burstiness: float = 1.0
    ramp_to: float | None = None

    @property
    def label(self) -> str:
        kind = f"gamma (burstiness {self.burstiness:g})" if self.arrivals == "gamma" else self.arrivals
        to = "" if self.ramp_to is None else f" to {self.ramp_to:g}"
        return f"open loop, {kind}, {self.rate:g}{to} requests/s"

    def times(self, chance: random.Random, duration_s: float | None) -> Iterator[float]:
        """Seconds from the load's start, without end.

        A process of unit rate, s = 1, 2, ... expected arrivals, is put through the inverse of the expected arrivals until t:
        L(t) = rate t + k t^2 / 2 with k = (ramp_to - rate) / duration, beyond the ramp L grows by ramp_to a second.
        """
        ramp_s = 0.0 if self.ramp_to is None or duration_s is None else duration_s
        final = self.rate if self.ramp_to is None else self.ramp_to
        slope = (final - self.rate) / ramp_s if ramp_s else 0.0
        in_ramp = (self.rate + final) / 2 * ramp_s
        for expected in self._unit_process(chance):
            if expected < in_ramp:
                # the stable form of the root: no difference of nearly equal numbers when the slope is small
                yield 2 * expected / (self.rate + math.sqrt(self.rate**2 + 2 * slope * expected))
            else:
                yield ramp_s + (expected - in_ramp) / final

    def _unit_process(self, chance: random.Random) -> Iterator[float]:
        """Times of arrivals with a mean gap of 1. Equal gaps begin at 0, chance begins with a gap."""
        if self.arrivals == "constant":
            count = 0
            while True:
                yield float(count)
                count += 1
        shape = self.burstiness if self.arrivals == "gamma" else 1.0
        total = 0.0
        while True:
            total += chance.gammavariate(shape, 1 / shape)
            yield total
