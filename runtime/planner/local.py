"""This machine as hardware: what `shardscope calibrate` wrote of it, else its GPU's entry in the catalogue, else its cores.

Calibrations lie in the user's data directory, one a host and device.
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.planner.calibration import Calibration, load
from runtime.planner.hardware import GIB, Gpu, catalogued, find_gpu, named_gpus, read_gpu, read_gpu_file
from runtime.planner.machine import Crowd, Machine, Part
from runtime.planner.names import PlanError
from runtime.planner.names import load as catalogue
from runtime.planner.parameters import scalar
from telemetry.cgroup import Cgroup

CPU = "cpu"
NAMES = ("local", CPU)  # what --gpu takes besides the catalogue's names


def calibration_path(device: str) -> Path:
    """Of this host; `device`: "cpu", or a GPU's name in the catalogue."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return data / "shardscope" / "calibration" / f"{platform.node() or 'host'}-{device}.json"


def find_device(name: str, file: Path | None = None, given: Calibration | None = None) -> tuple[Gpu, Calibration]:
    """A device by `--gpu`, and what is known of it. Raises PlanError.

    "local": this machine's GPU, or its CPU where there is none; "cpu": its CPU. `file`: one's own GPUs, one of which "local" may
    be. `given`: a calibration to use instead of the one in the user's data directory.
    """
    word = name.strip().lower()
    here = word in NAMES
    wanted = (_of_one_kind({} if file is None else read_gpu_file(file)) or CPU) if word == "local" else word
    if given is None and here and calibration_path(wanted).is_file():
        given = load(calibration_path(wanted))
    if here and given is not None and given.device is not None and given.gpu == wanted:
        return (_with_memory_left(given.device) if wanted == CPU else given.device), given
    found = nominal_cpu() if wanted == CPU else find_gpu(wanted, file)
    unknown = Calibration(uncalibrated=scalar("uncalibrated_cpu_band")) if wanted == CPU else Calibration()
    return found, unknown if given is None or given.gpu not in ("", found.name) else given


def _with_memory_left(cpu: Gpu) -> Gpu:
    """What is free changes from minute to minute; the rest was measured."""
    return replace(cpu, memory=float(Cgroup().memory_available()))


def local_gpu(own: Mapping[str, Any] | None = None) -> str | None:
    """The catalogue's word for this machine's first GPU; None when there is none. `own`: entries besides the catalogue's.

    Raises PlanError when nothing is known of it.
    """
    products = local_products()
    if not products:
        return None
    found = _catalogued(products[0], own or {})
    if found is None:
        named = f"; {', '.join(own)} are not" if own else ", with fields as in the catalogue"
        raise PlanError(
            f"this machine's GPU '{products[0]}' is not in the catalogue: take one near to it with --gpu NAME, or describe it "
            f"in a --gpu-file under words of its name{named}"
        )
    return found


def _catalogued(product: str, own: Mapping[str, Any]) -> str | None:
    return catalogued(product, {**catalogue("gpus"), **own})


def _of_one_kind(own: Mapping[str, Any]) -> str | None:
    """`local_gpu` where all GPUs are alike, as a layout takes them to be. Raises PlanError where they are not."""
    kinds = Counter(local_products())
    if len(kinds) > 1:
        here = ", ".join(f"{count} x {product}" for product, count in kinds.items())
        known = ((_catalogued(product, own), count) for product, count in kinds.items())
        take = [f"--gpu {word} --gpus {count}" for word, count in known if word is not None]
        raise PlanError(f"this machine's GPUs differ ({here}) and a plan is for one kind: {' or '.join(take) or '--gpu cpu'}")
    return local_gpu(own)


def local_products() -> list[str]:
    """This machine's GPUs by index, as NVML prints their products."""
    import pynvml

    try:
        pynvml.nvmlInit()
        found = [pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
    return [name if isinstance(name, str) else name.decode() for name in found]


def local_count(name: str) -> int:
    """How many devices a plan is for when nobody says: with "local" all of this machine's GPUs."""
    return max(1, len(local_products())) if name.strip().lower() == "local" else 1


def nominal_cpu() -> Gpu:
    """This machine's cores at rates that are usual for a core: a guess, until it is calibrated."""
    cores = max(1, int(Cgroup().cpus()))
    each, most = scalar("cpu_core_gb_s") * 1e9, scalar("cpu_socket_gb_s") * 1e9
    flops = {form: scalar(f"cpu_core_{form}_tflops") * 1e12 for form in ("bf16", "fp32")}
    entry = {
        "memory_gib": Cgroup().memory_available() / GIB,
        "bandwidth_gb_s": min(cores * each, most) / 1e9,
        "tflops": {form: cores * rate / 1e12 for form, rate in flops.items()},
        "link": "shm",
        "link_gb_s": each / 1e9,
        "link_gpus": 1024,
        "node_gpus": 1024,
        "shared": True,
        "measured": {kind: {"2": _EXCHANGE} for kind in ("all_reduce_us", "all_to_all_us")},
    }

    def part(threads: int, ranks: int) -> Part:
        read = min(threads * each, most / ranks)
        products = {
            form: tuple(
                (rows, max(size / read, 2 * rows / (threads * flops[form]))) for rows in (1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0)
            )
            for form, size in (("bf16", 2), ("fp32", 4))
        }
        launch = scalar("cpu_layer_us") * 1e-6
        return Part(
            products=products,
            kv=((1.0, read / 3),),  # gathered: read, written, read again
            prompts=((1.0, threads * flops["bf16"] / 4),),
            layer=((1.0, launch),),
            moe_layer=((1.0, 2 * launch),),
            expert=launch / 10,
            read=read,
        )

    parts = {n: (part(max(1, cores // n), 1), part(max(1, cores // n), n)) for n in (1, 2, 4, 8) if n <= max(1, cores)}
    step = scalar("step_ms") * 1e-3
    hop = tuple((size, us * 1e-6) for size, us in _EXCHANGE)
    machine = Machine(cores, parts, Crowd(), step, step, hop, scalar("cpu_process_gib") * GIB)
    return replace(read_gpu(CPU, entry), machine=machine)


_EXCHANGE = [(2048.0, 30.0), (131072.0, 60.0), (1048576.0, 250.0)]


def known_names() -> list[str]:
    return [*NAMES, *named_gpus()]
