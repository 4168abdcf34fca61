"""What the flags of `shardscope stress`, or a screen's fields of the same names, ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.layout import Layout
from runtime.stress.arrivals import KINDS, OpenLoop
from runtime.stress.faults import parse_fault
from runtime.stress.goodput import parse_slo
from runtime.stress.lengths import parse_lengths
from runtime.stress.plan import DEFAULT_INPUT, DEFAULT_OUTPUT, ClosedLoop, Pattern, Plan, check
from runtime.stress.trace import read_trace
from runtime.stress.values import positive, refuse, whole

DURATION_S, STEP_S = 30.0, 10.0
SWEEP_STEPS = (1, 8, 32)  # of concurrency, when a sweep is given none


@dataclass(frozen=True)
class Asked:
    """`steps`: of concurrency; None for a single load, empty for as many as it takes to find the knee. `sweep`: the layouts to
    make them under, one after the other; empty: as it is."""

    plan: Plan
    steps: tuple[int, ...] | None = None
    sweep: tuple[Layout, ...] = ()


def asked(given: Mapping[str, Any]) -> Asked:
    """Raises BadPlan."""
    ways = [name for name in ("rate", "concurrency", "trace") if name in given]
    if len(ways) > 1:
        raise refuse(" and ".join(f"--{way}" for way in ways), "together", "a load has one pattern", f"--{ways[0]} alone")
    for name in ("arrivals", "burstiness", "ramp"):
        if name in given and ways not in ([], ["rate"]):
            raise refuse(
                f"--{name}", given[name], f"it is of an open loop, --{ways[0]} is another pattern", f"without --{ways[0]}"
            )
    sweep = _layouts(given)
    steps = _steps(given["concurrency"]) if "concurrency" in given else SWEEP_STEPS if sweep else None
    stepping = steps is not None and (bool(sweep) or len(steps) != 1)
    pattern = _pattern(given, steps)
    duration_s = given.get("duration")
    if duration_s is not None:
        positive("--duration", duration_s, DURATION_S)
    elif "requests" not in given and "trace" not in given:
        duration_s = STEP_S if stepping else DURATION_S
    if given.get("requests", 1) < 1:
        raise refuse("--requests", given["requests"], "it must be at least 1", 1)
    if given.get("warmup", 0) < 0:
        raise refuse("--warmup", given["warmup"], "it must be at least 0 s", 0)
    plan = Plan(
        pattern,
        duration_s,
        given.get("requests"),
        parse_lengths("--input-tokens", given["input_tokens"]) if "input_tokens" in given else DEFAULT_INPUT,
        parse_lengths("--output-tokens", given["output_tokens"]) if "output_tokens" in given else DEFAULT_OUTPUT,
        seed=given.get("seed", 0),
        slo=parse_slo(given["slo"]) if "slo" in given else None,
        warmup_s=given.get("warmup", 0.0),
        faults=tuple(parse_fault(text) for text in given.get("fault", ())),
    )
    check(plan, None)
    return Asked(plan, steps if stepping else None, sweep)


def _layouts(given: Mapping[str, Any]) -> tuple[Layout, ...]:
    if "sweep" not in given:
        return ()
    text = str(given["sweep"])
    for name in ("rate", "trace", "arrivals", "burstiness", "ramp", "fault", "url"):
        if name in given:
            rule = "a sweep is made of closed loops on a deployment of this daemon, under its layouts"
            raise refuse("--sweep", f"with --{name}", rule, "--sweep with --concurrency 1,8,32")
    try:
        layouts = tuple(Layout.parse(each) for each in text.split(",") if each.strip())
    except ValueError as error:
        raise refuse("--sweep", f"'{text}'", str(error), "tp2,pp2") from None
    if not layouts:
        raise refuse("--sweep", f"'{text}'", "it must name a layout", "tp2,pp2")
    return tuple(dict.fromkeys(layouts))


def _pattern(given: Mapping[str, Any], steps: tuple[int, ...] | None) -> Pattern:
    if steps is not None:
        return ClosedLoop(steps[0] if steps else 1)
    if "trace" in given:
        return read_trace(Path(given["trace"]))
    kind = given.get("arrivals", "gamma" if "burstiness" in given else "poisson")
    if kind not in KINDS:
        raise refuse("--arrivals", f"'{kind}'", f"it must be {', '.join(KINDS)}", "poisson")
    if "burstiness" in given and kind != "gamma":
        raise refuse("--burstiness", f"{given['burstiness']:g}", f"{kind} arrivals have none", "--arrivals gamma")
    burstiness = positive("--burstiness", given.get("burstiness", 1.0), 0.1)
    ramp = positive("--ramp", given["ramp"], 0.1) if "ramp" in given else None
    return OpenLoop(positive("--rate", given.get("rate", 1.0), 0.1), kind, burstiness, ramp)


def _steps(text: str) -> tuple[int, ...]:
    """`auto` is the empty one."""
    return () if text == "auto" else tuple(whole("--concurrency", each, '"8", "1,8,32" or "auto"') for each in text.split(","))
