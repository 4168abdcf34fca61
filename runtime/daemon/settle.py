"""What the operator left open is settled here: device, dtype, transport, threads and cores, and what cannot be is refused.

Pure functions of the spec, the model and the `Machine`; nothing has been started when they refuse.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from runtime.checkpoint.config import ModelShape
from runtime.layout import broken_rules, nearest_layouts, possible_layouts
from runtime.spec import DeploymentSpec
from telemetry.cgroup import Cgroup

MAX_RANKS = 1024
RANKS_A_CPU = 2  # in what we offer; who asks for more gets them


class LaunchRefused(ValueError):
    """The deployment cannot be: names the rule, the values, and what would work. No process was started."""


@dataclass(frozen=True)
class Machine:
    """What this process may use. `cpus`: logical ones; `cores`: one of each physical core; `quota`: cores' worth of time.

    `memory`: the host's bytes, as far as our control group may hold them.
    """

    gpus: int
    cpus: tuple[int, ...]
    cores: tuple[int, ...]
    quota: float | None
    architecture: str
    memory: int

    @classmethod
    def here(cls) -> Machine:
        cpus = tuple(sorted(os.sched_getaffinity(0)))
        group = Cgroup()
        return cls(count_gpus(), cpus, _first_of_each_core(cpus), group.cpu_quota(), platform.machine(), group.memory_total())


@dataclass(frozen=True)
class Placement:
    """A spec without `auto`. `devices` and `cpus` are by rank; a rank with no cpus is not pinned."""

    device: str
    devices: tuple[str, ...]
    dtype: str
    transport: str
    threads: int
    cpus: tuple[tuple[int, ...], ...]
    spin: bool
    emulated: bool
    max_model_len: int  # an upper bound: the KV cache may hold less

    def __str__(self) -> str:
        """`cpu, float32, shm, 2 threads a rank, pinned`."""
        words = [self.device, self.dtype, self.transport]
        if self.device == "cpu":
            words += [
                f"{self.threads} thread{'s' if self.threads > 1 else ''} a rank",
                "pinned" if any(self.cpus) else "not pinned",
            ]
        return ", ".join(words + ["emulated"] * self.emulated)


def settle(spec: DeploymentSpec, shape: ModelShape, machine: Machine) -> Placement:
    """Raises LaunchRefused."""
    layout = spec.layout
    _check_layout(spec, shape, machine)
    if layout.world_size > MAX_RANKS:
        raise LaunchRefused(f"dp {layout.dp}: {layout} has {layout.world_size:,} ranks, one machine runs {MAX_RANKS:,} at most")
    if spec.max_model_len is not None and spec.max_model_len > shape.max_position:
        raise LaunchRefused(f"max_model_len {spec.max_model_len}: the model's positions end at {shape.max_position}")
    device = _device(spec, machine)
    emulated = device == "cuda" and layout.world_size > machine.gpus
    if emulated and not spec.oversubscribe:
        fitting = ", ".join(str(other) for other in possible_layouts(shape, machine.gpus)) if machine.gpus else ""
        raise LaunchRefused(
            f"{layout} has {layout.world_size} ranks and this machine {machine.gpus} GPUs: a rank needs one of its own. "
            f"What works: --device cpu{', --oversubscribe' if machine.gpus else ''}{', ' + fitting if fitting else ''}"
        )
    if emulated and not machine.gpus:
        raise LaunchRefused("--device cuda: this machine shows no GPU")
    if device == "cpu":
        _check_cache(spec, machine)
    threads, cpus, spin = _share_cores(layout.world_size, spec.threads, machine)
    return Placement(
        device=device,
        devices=tuple(f"cuda:{rank % machine.gpus}" if device == "cuda" else "cpu" for rank in range(layout.world_size)),
        dtype=shape.dtype if spec.dtype == "auto" else spec.dtype,
        transport=_transport(spec, device, emulated, machine),
        threads=threads,
        cpus=cpus if device == "cpu" else ((),) * layout.world_size,
        spin=spin,
        emulated=emulated,
        max_model_len=spec.max_model_len or shape.max_position,
    )


def _check_layout(spec: DeploymentSpec, shape: ModelShape, machine: Machine) -> None:
    rules = broken_rules(spec.layout, shape)
    if rules:
        most = machine.gpus if spec.device == "cuda" and machine.gpus else RANKS_A_CPU * len(machine.cpus)
        near = ", ".join(str(other) for other in nearest_layouts(spec.layout, shape, most=most))
        raise LaunchRefused(f"layout {spec.layout} is impossible for this model: {'; '.join(rules)}. Nearest that work: {near}")


def _check_cache(spec: DeploymentSpec, machine: Machine) -> None:
    ranks, asked = spec.layout.world_size, spec.kv_cache_bytes
    if asked is not None and asked * ranks > machine.memory:
        of_each = f"{asked:,} bytes" + (f" for each of {ranks} ranks" if ranks > 1 else "")
        raise LaunchRefused(
            f"kv_cache_bytes {asked}: {of_each} are more than this machine's memory, {machine.memory:,} bytes. "
            f"Nearest that works: less than {machine.memory // ranks}, or none given, which takes what fits"
        )


def _device(spec: DeploymentSpec, machine: Machine) -> str:
    if spec.device != "auto":
        return spec.device
    enough = machine.gpus >= spec.layout.world_size or (spec.oversubscribe and machine.gpus > 0)
    return "cuda" if enough else "cpu"


def _transport(spec: DeploymentSpec, device: str, emulated: bool, machine: Machine) -> str:
    # shared memory: its flags rely on stores being seen in the order they were made
    ordered = machine.architecture in ("x86_64", "AMD64")
    if spec.transport == "auto":
        if device == "cuda":
            return "gloo" if emulated else "nccl"  # NCCL takes one rank a GPU
        return "shm" if ordered else "gloo"
    if spec.transport == "nccl" and (device != "cuda" or emulated):
        raise LaunchRefused("--transport nccl: NCCL needs a GPU for each rank")
    if spec.transport == "shm" and (device != "cpu" or not ordered):
        raise LaunchRefused("--transport shm: shared memory serves ranks on x86-64 CPUs only")
    return spec.transport


def _share_cores(ranks: int, asked: int | None, machine: Machine) -> tuple[int, tuple[tuple[int, ...], ...], bool]:
    """(threads a rank, cpus of each rank, spin). Pinned when every thread gets a cpu, spinning when every rank gets a core."""
    limited = machine.quota is not None and machine.quota < len(machine.cpus)
    budget = max(1, int(machine.quota)) if limited and machine.quota is not None else len(machine.cpus)
    # two threads of one core share its arithmetic units: second ones are used only when ranks outnumber cores
    usable = (machine.cores if ranks <= len(machine.cores) else machine.cpus)[:budget]
    threads = asked or max(1, len(usable) // ranks)
    spin = ranks <= min(len(machine.cores), budget)
    if limited or threads * ranks > len(usable):
        return threads, ((),) * ranks, spin
    return threads, tuple(usable[rank * threads : (rank + 1) * threads] for rank in range(ranks)), spin


def count_gpus() -> int:
    """GPUs that CUDA_VISIBLE_DEVICES leaves, counted by the driver without touching them."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return 0
    try:
        present = int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0
    finally:
        pynvml.nvmlShutdown()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    return min(present, len([name for name in visible.split(",") if name.strip() not in ("", "-1")]))


def _first_of_each_core(cpus: tuple[int, ...]) -> tuple[int, ...]:
    firsts: list[int] = []
    seen: set[str] = set()
    for cpu in cpus:
        try:
            core = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
        except OSError:
            core = str(cpu)
        if core not in seen:
            seen.add(core)
            firsts.append(cpu)
    return tuple(firsts)
