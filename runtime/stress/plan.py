"""What load to make: plain data, and the requests that follow from it. The same plan gives the same requests and times."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from runtime.stress.arrivals import OpenLoop
from runtime.stress.faults import Fault
from runtime.stress.goodput import Slo
from runtime.stress.lengths import Lengths, fixed
from runtime.stress.trace import BLOCK, Trace
from runtime.stress.values import BadPlan, refuse

DEFAULT_INPUT, DEFAULT_OUTPUT = fixed(512), fixed(128)
# Token ids from 3 to 255: no vocabulary is smaller, and the first ids are often special.
_IDS = bytes(3 + byte % 253 for byte in range(256))


@dataclass(frozen=True)
class ClosedLoop:
    """So many clients, each sends its next request when it has the answer to the last: a slow server is asked less."""

    concurrency: int

    @property
    def label(self) -> str:
        return f"closed loop, {self.concurrency} at once"


Pattern = OpenLoop | ClosedLoop | Trace


@dataclass(frozen=True)
class Plan:
    """Requests are sent for `duration_s` seconds or until there were `requests`, whichever comes first; at least one is given,
    but for a trace, which ends by itself. Those intended in the first `warmup_s` are not measured. `drain_s`: how long answers
    are waited for after the last was sent; what is missing then is an error. A trace has its own lengths.
    """

    pattern: Pattern
    duration_s: float | None = 30.0
    requests: int | None = None
    input: Lengths = DEFAULT_INPUT
    output: Lengths = DEFAULT_OUTPUT
    seed: int = 0
    slo: Slo | None = None
    warmup_s: float = 0.0
    drain_s: float = 30.0
    faults: tuple[Fault, ...] = ()

    @property
    def kind(self) -> str:
        return "closed loop" if isinstance(self.pattern, ClosedLoop) else "open loop"


@dataclass(frozen=True)
class Ask:
    """One request: `prompt` holds a token id a byte. `at_s`: when it is due; a closed loop sends it when a client is free."""

    index: int
    at_s: float
    prompt: bytes
    output_tokens: int


def asks(plan: Plan) -> Iterator[Ask]:
    """The requests in order. A closed loop's have no time, so only `plan.requests` ends them."""
    pattern = plan.pattern
    numbers: Iterator[int] = iter(range(plan.requests)) if plan.requests is not None else count()
    if isinstance(pattern, Trace):
        for index, entry in zip(numbers, pattern.entries, strict=False):
            if _beyond(plan, entry.at_s):
                return
            prompt = _shared_prompt(plan.seed, index, entry.input_tokens, entry.hash_ids)
            yield Ask(index, entry.at_s, prompt, entry.output_tokens)
        return
    # a chance of its own for the times: the i-th request is the same under every pattern
    times = pattern.times(_chance(plan.seed, "arrivals"), plan.duration_s) if isinstance(pattern, OpenLoop) else None
    for index in numbers:
        at_s = next(times) if times is not None else 0.0
        if _beyond(plan, at_s):
            return
        chance = _chance(plan.seed, f"request {index}")
        prompt_tokens, output_tokens = plan.input.draw(chance), plan.output.draw(chance)
        yield Ask(index, at_s, _ids(chance, prompt_tokens), output_tokens)


def check(plan: Plan, context: int | None) -> None:
    """Raises BadPlan for a load that cannot be; `context`: tokens of prompt and answer that the model holds, when known."""
    if plan.duration_s is None and plan.requests is None and not isinstance(plan.pattern, Trace):
        raise BadPlan("the load has no end: give --duration or --requests; nearest that works: --duration 30")
    if plan.duration_s is not None and plan.warmup_s >= plan.duration_s:
        rule = f"it must be shorter than the load of {plan.duration_s:g} s"
        raise refuse("--warmup", f"{plan.warmup_s:g}", rule, f"{plan.duration_s / 10:g}")
    late = next((fault for fault in plan.faults if plan.duration_s is not None and fault.at_s >= plan.duration_s), None)
    if late is not None and plan.duration_s is not None:
        rule = f"the load lasts {plan.duration_s:g} s"
        raise refuse("--fault", f"'{late}'", rule, f"t={plan.duration_s / 2:g}")
    if isinstance(plan.pattern, OpenLoop) and plan.pattern.ramp_to is not None and plan.duration_s is None:
        raise refuse("--ramp", f"{plan.pattern.ramp_to:g}", "a ramp lasts as long as the load: give --duration", "--duration 30")
    if context is not None:
        _check_fits(plan, context)


def _check_fits(plan: Plan, context: int) -> None:
    if isinstance(plan.pattern, Trace):
        for entry in plan.pattern.entries:
            if entry.input_tokens + entry.output_tokens > context:
                asked = f"{entry.input_tokens} + {entry.output_tokens} tokens"
                rule = f"{asked}, and the model's context holds {context}"
                nearest = f"input_length {max(1, context - entry.output_tokens)}"
                raise BadPlan(f"--trace {plan.pattern.source} line {entry.line}: {rule}; nearest that works: {nearest}")
        return
    if plan.input.largest + plan.output.largest > context:
        asked = f"up to {plan.input.largest} + {plan.output.largest} tokens"
        if plan.output.largest < context:
            nearest = f"--input-tokens {context - plan.output.largest}"
        else:
            nearest = f"--input-tokens {max(1, context // 2)} --output-tokens {max(1, context // 2)}"
        rule = f"{asked}, and the model's context holds {context}"
        raise BadPlan(f"--input-tokens {plan.input} --output-tokens {plan.output}: {rule}; nearest that works: {nearest}")


def _beyond(plan: Plan, at_s: float) -> bool:
    return plan.duration_s is not None and at_s >= plan.duration_s


def _chance(seed: int, what: str) -> random.Random:
    return random.Random(f"{seed} {what}")


def _ids(chance: random.Random, tokens: int) -> bytes:
    return chance.randbytes(tokens).translate(_IDS)


def _shared_prompt(seed: int, index: int, tokens: int, hash_ids: tuple[int, ...]) -> bytes:
    """As many blocks as there are ids, then tokens of its own; cut at `tokens`."""
    wanted = hash_ids[: -(-tokens // BLOCK)]
    shared = b"".join(_ids(_chance(seed, f"block {each}"), BLOCK) for each in wanted)[:tokens]
    return shared + _ids(_chance(seed, f"request {index}"), tokens - len(shared))
