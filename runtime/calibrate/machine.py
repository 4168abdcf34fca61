"""Measure the whole machine: the parts of a step in ranks' own processes, what the engine adds, and a check against real runs."""

from __future__ import annotations

import platform
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from runtime.calibrate import assemble, check, whole, worlds
from runtime.calibrate.others import Others
from runtime.daemon.settle import Machine
from runtime.layout import Layout
from runtime.planner.calibration import Calibration, load, save
from runtime.planner.hardware import find_gpu
from runtime.planner.local import CPU, calibration_path, local_gpu
from runtime.planner.memory import precision
from runtime.planner.models import find_model
from runtime.planner.parameters import scalar
from runtime.rank.nursery import Zygote
from telemetry.cgroup import Cgroup

PARTS = 0.66  # of the time, for the parts; the rest is for whole steps and the check
MOST_WINDOW_S = 0.25
DISTURBED = 0.1  # share of the cores that others had, from which on it is said


class NothingToMeasure(ValueError):
    """The device that was asked for is not here."""


def measure_machine(device: str, seconds: float, out: Path | None, tell: Callable[[str], None]) -> Path:
    """Returns the file. `tell` hears of every step. Raises NothingToMeasure, MeasureFailed, PlanError or OSError."""
    machine = Machine.here()
    device = _device(device, machine)
    name = CPU if device == "cpu" else local_gpu()
    if name is None:
        raise NothingToMeasure("--device cuda: the driver shows no GPU")
    cores = len(machine.cores) if device == "cpu" else 0
    path = out or calibration_path(name)
    start = time.monotonic()
    with Zygote(worlds.RANK_MODULE) as measuring:
        found, taken = _parts(device, cores or machine.gpus, seconds * PARTS, measuring, tell)
    with tempfile.TemporaryDirectory(prefix="shardscope-calibrate-") as scratch, Zygote() as serving:
        tell("what the engine adds to a step")
        tiny = whole.make_checkpoint(Path(scratch) / "tiny", "tiny")
        several = device == "cpu" or machine.gpus > 1
        step_s, turn_s = whole.engine_step(tiny, device, assemble.layer_s(found), serving, several)
        process = scalar("cpu_process_gib") * 2**30
        entry = assemble.device(found, Cgroup().memory_available(), cores) if device == "cpu" else _catalogued(name, found)
        measured = {
            **_about(taken),
            "device": entry,
            "rates": assemble.rates(found, cores, step_s, turn_s, process),
        }
        calibration = Calibration(_words(device, machine, name), gpu=name, date=time.strftime("%Y-%m-%d"))
        unchecked = Path(scratch) / "unchecked.json"  # what there was of this machine stays until all is known
        save(calibration, unchecked, **measured)
        rest = seconds - (time.monotonic() - start)
        checked = _check(Path(scratch), unchecked, device, cores or machine.gpus, rest, serving, tell)
    save(check.with_errors(calibration, checked), path, **measured)
    _report(checked, taken, time.monotonic() - start, tell)
    return path


class _Time(NamedTuple):
    """One time that a layout was measured."""

    world: worlds.World
    others: float  # share of the cores that others had
    ranks: list[dict[str, Any]]


def _parts(
    device: str, devices: int, seconds: float, zygote: Zygote, tell: Callable[[str], None]
) -> tuple[assemble.Found, float]:
    """What was found under each layout, and the largest share of the cores that others had meanwhile.

    All are measured whole, then, while there is time, once more what matters most; and whole again those that others disturbed.
    """
    todo = worlds.worlds(devices, device == "cpu")
    turns = todo + [world.again for world in todo]
    weights = [50 if "parts" in world.measure else 12 for world in turns]  # pieces of work
    window_s = min(MOST_WINDOW_S, 0.25 * seconds / sum(weights))
    times: dict[Layout, list[_Time]] = {world.layout: [] for world in todo}
    start = time.perf_counter()
    used = 0

    def look(world: worlds.World, until: float) -> None:
        tell(f"{world.layout}: {', '.join(word.replace('_', ' ') for word in world.measure)}")
        others = Others()
        ranks = worlds.measure(world, device, window_s, until, zygote)
        times[world.layout].append(_Time(world, others.cores / (psutil.cpu_count() or 1), ranks))

    for world, weight in zip(turns, weights, strict=True):
        used += weight
        if not times[world.layout] or time.perf_counter() < start + seconds:
            look(world, start + seconds * used / sum(weights))
    for world in todo:
        if times[world.layout][0].others > DISTURBED and time.perf_counter() < start + seconds:
            look(world, start + seconds)
    kept = {world.layout: _calm(world, times[world.layout]) for world in todo}
    return (
        {layout: [rank for each in found for rank in each.ranks] for layout, found in kept.items()},
        max(each.others for found in kept.values() for each in found),
    )


def _calm(whole: worlds.World, times: Sequence[_Time]) -> list[_Time]:
    """Those at which others had next to nothing, and of the whole ones the calmest in any case; this one first."""
    best = min((each for each in times if each.world == whole), key=lambda each: each.others)
    return [best] + [each for each in times if each is not best and each.others <= DISTURBED]


def _check(
    scratch: Path, path: Path, device: str, devices: int, seconds: float, zygote: Zygote, tell: Callable[[str], None]
) -> list[check.Checked]:
    """Real runs of a model that was not used for measuring, under the layouts that have a core or device a rank."""
    model = whole.make_checkpoint(scratch / "check", "demo", **whole.CHECK)
    shape, known = find_model(str(model)), load(path)
    if known.device is None:
        return []
    form = precision(shape, "bf16", "plain")
    layouts = [Layout()] + [Layout(tp=2), Layout(pp=2)] * (devices > 1)
    found: list[check.Checked] = []
    end = time.monotonic() + seconds
    for layout in layouts:
        if found and time.monotonic() > end:
            break
        tell(f"check: a model of {shape.parameters / 1e6:.0f} million parameters under {layout}")
        with whole.served(model, layout, device, zygote) as llm:
            for run in whole.runs(llm, (1, 8)):
                found.append(check.predicted(run, shape, known.device, form, known.scale, whole.ISL, whole.OSL))
    return found


def _report(checked: list[check.Checked], taken: float, seconds: float, tell: Callable[[str], None]) -> None:
    for each in checked:
        tpot, ttft = each.off
        tell(
            f"  {each.run.layout!s:>6} x{each.run.concurrency}: TPOT {each.run.tpot * 1e3:6.1f} ms, predicted {tpot:+.0%}; "
            f"TTFT {each.run.ttft * 1e3:6.0f} ms, predicted {ttft:+.0%}"
        )
    words = f"; others had up to {taken:.0%} of the cores meanwhile: measure again when it is quiet"
    disturbed = words if taken > DISTURBED else ""
    tell(f"measured in {seconds:.0f} s{disturbed}")


def _device(asked: str, machine: Machine) -> str:
    known = ("auto", "cpu", "cuda")
    if asked not in known:
        raise NothingToMeasure(f"--device {asked}: it is one of {', '.join(known)}")
    if asked == "cuda" and not machine.gpus:
        raise NothingToMeasure("--device cuda: this machine shows no GPU; --device cpu measures its cores")
    return asked if asked != "auto" else "cuda" if machine.gpus else "cpu"


def _catalogued(name: str, found: assemble.Found) -> dict[str, Any]:
    """A GPU's data sheet, with the exchanges measured here."""
    gpu = find_gpu(name)
    measured = assemble.device(found, int(gpu.memory), 0)
    return {
        **measured,
        "memory_gib": gpu.memory / 2**30,
        "tflops": {kind: rate / 1e12 for kind, rate in gpu.flops.items()},
        "link": gpu.link,
        "link_gb_s": gpu.link_bandwidth / 1e9,
        "link_gpus": gpu.link_gpus,
        "node_gpus": gpu.node_gpus,
        "network_gb_s": gpu.network / 1e9,
        "measured_as": gpu.measured_as,
    }


def _about(taken: float) -> dict[str, Any]:
    """Where and with what it was measured."""
    versions = {name: metadata.version(name) for name in ("torch", "shardscope")}
    return {
        "host": socket.gethostname(),
        "versions": {"python": platform.python_version(), **versions},
        "taken_by_others": round(taken, 3),
    }


def _words(device: str, machine: Machine, name: str) -> str:
    if device == "cuda":
        return f"{socket.gethostname()}: {machine.gpus} x {name}"
    return f"{socket.gethostname()}: {_processor()}, {len(machine.cores)} cores"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
