"""Closed loops of growing concurrency, and the knee: where more of it stops to pay."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runtime.stress.result import Result, Steps

RULE = (
    "knee: the step with the most power, output tokens/s / E2E p50 (Kleinrock); beyond it twice the concurrency brings less than "
    "1.4 times the throughput"
)
LARGEST = 512  # concurrency that `auto` tries
PATIENCE = 2  # steps of less power before `auto` ends


def power(result: Result) -> float:
    """Throughput over delay: output tokens/s / E2E p50 in seconds; 0 when nothing was answered."""
    e2e = result.latency.get("e2e")
    return result.output_tokens_per_s / (e2e.p50 / 1000) if e2e and e2e.p50 > 0 else 0.0


def knee_of(results: Sequence[Result]) -> int | None:
    """The concurrency with the most power; None when nothing was answered."""
    best = max(results, key=power, default=None)
    return best.concurrency if best is not None and power(best) > 0 else None


def past_the_knee(results: Sequence[Result]) -> bool:
    """Whether the last steps all had less power than the best before them, or nothing is answered any more."""
    if results and results[-1].requests.ok == 0:
        return True
    powers = [power(result) for result in results]
    return len(powers) > PATIENCE and max(powers[-PATIENCE:]) < max(powers[:-PATIENCE])


def run_steps(wanted: Sequence[int] | None, one: Callable[[int], Result], on_step: Callable[[Result], None]) -> Steps:
    """`wanted` None: 1, 2, 4, ... until the knee is passed. `one` makes the load of one concurrency."""
    done: list[Result] = []
    exponents = range(LARGEST.bit_length())
    for concurrency in wanted if wanted is not None else (2**exponent for exponent in exponents):
        result = one(concurrency)
        done.append(result)
        on_step(result)
        if result.interrupted or (wanted is None and past_the_knee(done)):
            break
    return Steps(tuple(done), knee_of(done), RULE, any(result.interrupted for result in done))
