"""What ranks are asked to measure. Plain data, no torch."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct


class Order(Struct, frozen=True):
    """`measure`: of "parts" (with "fp32": its products, too), "exchanges", "hand_over", "crowd". `window_s`: how long to look at
    each piece of work; `until`: of `time.perf_counter`, one clock for all processes of a host: when to hurry."""

    measure: list[str]
    window_s: float
    until: float

    def write(self, path: Path) -> None:
        path.write_bytes(msgspec.json.encode(self))

    @classmethod
    def read(cls, path: Path) -> Order:
        return msgspec.json.decode(path.read_bytes(), type=cls)
