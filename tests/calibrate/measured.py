"""What ranks of a machine of round numbers would find: two cores that read 10 GB/s each."""

from __future__ import annotations

from typing import Any

from runtime.layout import Layout

ROWS = (1.0, 8.0, 256.0)


def part(read: float = 10e9, **more: Any) -> dict[str, Any]:
    """A rank that reads so many bytes a second and multiplies 100 GFLOP/s."""
    products = {form: [[rows, max(size / read, 2 * rows / 100e9)] for rows in ROWS] for form, size in (("bf16", 2), ("fp32", 4))}
    found = {"threads": 1, "read": read, "copy": read, "products": products, "pass": [[1.0, 1e-4], [8.0, 1e-4]], "expert": 2e-5}
    found["calls"] = [[1.0, 0.0], [8.0, 0.0]]
    found |= {"layer": [[1.0, 1e-4], [8.0, 2e-4]], "moe_layer": [[1.0, 3e-4], [8.0, 4e-4]]}
    return {**found, "kv": [[1e6, read / 2], [1e7, read / 2]], "prompts": [[128.0, 50e9]], **more}


def exchanges() -> dict[str, Any]:
    points = [[2048.0, 2e-5], [1048576.0, 4e-4]]
    return {"all_reduce": points, "all_to_all": [[size, 2 * seconds] for size, seconds in points]}


def laps(each: float, count: int = 10, start: float = 0.0) -> list[float]:
    return [start + i * each for i in range(count + 1)]


def found() -> dict[Layout, list[dict[str, Any]]]:
    """Two threads of one rank read as much as two ranks; a rank alone reads more than beside the other."""
    crowd = {"threads": 1}
    waiting = {"all_reduce": [[2048.0, 5e-5]], "all_to_all": [[2048.0, 9e-5]], "laps": laps(4.5e-4)}
    return {
        Layout(): [part(20e9, threads=2)],
        Layout(tp=2): [part(10e9, laps=laps(4.2e-4), **exchanges()) for _ in range(2)],
        Layout(pp=2): [part(12e9), {"threads": 1, "hand_over": [[2048.0, 3e-5], [1048576.0, 2e-4]]}],
        Layout(tp=2, pp=2): [{**crowd, **waiting, "laps_together": laps(1.05e-3)}] * 2
        + [{**crowd, "laps_together": laps(1.05e-3)}] * 2,
    }
