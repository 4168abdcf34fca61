"""Devices and how they are wired. Rates are dense (vendors print them with sparsity) and links are one direction (ditto both)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.planner.names import PlanError, find, load

if TYPE_CHECKING:
    from runtime.planner.machine import Machine

GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """One kind of device. A CPU is one that all ranks share; its memory is what this machine has left."""

    name: str
    memory: float  # bytes that the driver reports
    bandwidth: float  # bytes a second
    flops: Mapping[str, float] = field(hash=False)  # dense, a second, by type: "bf16", "fp8", "int8", "fp4", "fp32"
    link: str  # "nvlink", "pcie" or what a file says
    link_bandwidth: float  # bytes a second in one direction, all peers together
    link_gpus: int  # devices that the fast link joins
    node_gpus: int
    network: float  # bytes a second in one direction a device, between nodes
    measured_as: str  # whose measured efficiencies stand for it; empty: the mean of all
    measured: Mapping[str, Any] = field(default_factory=dict, hash=False)  # its own, as parameters.json has them by device
    shared: bool = False  # its ranks share cores and memory
    machine: Machine | None = field(default=None, hash=False)  # what was measured of ranks here
    bfloat16: bool = True  # its "bf16" rate is fp16's alone where not


@dataclass(frozen=True)
class Cluster:
    """So many devices of one kind."""

    gpu: Gpu
    gpus: int

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.gpu.node_gpus)


def named_gpus() -> list[str]:
    return list(load("gpus"))


def find_gpu(name: str, file: Path | None = None) -> Gpu:
    """A GPU of the catalogue or of one's own file (same fields as data/gpus.json). Raises PlanError naming the nearest."""
    catalogue = dict(load("gpus"))
    if file is not None:
        catalogue |= read_gpu_file(file)
    hint = "local is this machine's; another is described with --gpu-file"
    product = catalogued(name, catalogue) if _MAKERS & _words(name) else None
    entry = product or find(name, {key: _aliases(value) for key, value in catalogue.items()}, "gpu", hint)
    found = read_gpu(entry, catalogue[entry])
    if not found.flops:
        raise PlanError(f"gpu '{entry}' has no tflops above 0: it needs {{'bf16': ...}} or {{'fp32': ...}}")
    return found


def read_gpu_file(file: Path) -> dict[str, Any]:
    """Fields of each of one's own GPUs, by name in small letters. Raises PlanError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlanError(f"{file} cannot be read as a GPU file: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise PlanError(f"{file} is no GPU file: it needs {{name: {{memory_gib, bandwidth_gb_s, tflops: {{'bf16': ...}}}}, ...}}")
    return {key.lower(): value for key, value in content.items()}


def _aliases(entry: Mapping[str, Any]) -> tuple[str, ...]:
    given = entry.get("aliases") or ()
    return tuple(str(alias).lower() for alias in ([given] if isinstance(given, str) else given))


def read_gpu(name: str, fields: Mapping[str, Any]) -> Gpu:
    """A device from the fields of data/gpus.json: GiB, GB/s and TFLOPS. Raises PlanError naming the field at fault.

    `measured` may hold the device's own tables, spelled as parameters.json spells them for one device: `matmul`
    ({"bf16": [share of bandwidth, share of peak]}), `all_reduce_us` and `all_to_all_us` ({"2": [[bytes, us], ...]}).
    """

    def number(key: str, default: float | None = None) -> float:
        value = float(fields[key] if default is None else fields.get(key, default))
        if not 0 < value < float("inf"):
            raise ValueError(f"{key} is {fields[key]}; it must be more than 0")
        return value

    try:
        return Gpu(
            name=name,
            memory=number("memory_gib") * GIB,
            bandwidth=number("bandwidth_gb_s") * 1e9,
            flops={kind: float(rate) * 1e12 for kind, rate in fields["tflops"].items() if float(rate) > 0},
            link=str(fields.get("link", "pcie")),
            link_bandwidth=number("link_gb_s", 32) * 1e9,
            link_gpus=max(1, int(number("link_gpus", 8))),
            node_gpus=max(1, int(number("node_gpus", 8))),
            network=number("network_gb_s", 12.5) * 1e9,
            measured_as=str(fields.get("measured_as") or ""),
            measured=_measured(fields.get("measured") or {}),
            shared=bool(fields.get("shared", False)),
            bfloat16=bool(fields.get("bfloat16", True)),
        )
    except KeyError as error:
        needed = "memory_gib, bandwidth_gb_s and tflops ({'bf16': ...})"
        raise PlanError(f"gpu '{name}' lacks {error.args[0]}: it needs {needed}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise PlanError(f"gpu '{name}': {error}") from None


def _measured(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables, once it is sure that they can be read. Raises ValueError naming the one that cannot."""
    for name, table in tables.items():
        try:
            if name == "matmul":
                good = all(len(pair) == 2 and min(map(float, pair)) > 0 for pair in table.values())
            else:
                points = [(float(size), float(us)) for ranks, rows in table.items() if int(ranks) > 1 for size, us in rows]
                good = bool(points) and all(size > 0 and us > 0 for size, us in points)
        except (TypeError, ValueError, AttributeError):
            good = False
        if not good:
            form = '{"bf16": [share of bandwidth, share of peak]}' if name == "matmul" else '{"2": [[bytes, us], ...]}'
            raise ValueError(f"measured {name} is no table; it needs {form}")
    return dict(tables)


_MAKERS = frozenset({"nvidia", "tesla", "geforce", "quadro"})
_OTHERS = frozenset({"laptop", "mobile", "max", "ti", "super", "d", "mig"})  # another device, or a part of one, of the same name


def catalogued(product: str, catalogue: Mapping[str, Any] | None = None) -> str | None:
    """The entry for a product name as NVML prints it ("NVIDIA H100 80GB HBM3"); None when no entry's words are all in it.

    A laptop's device and a MIG slice only share a name with an entry, and a board for PCIe with one that NVLink joins.
    """
    words, best = _words(product), 0
    found = None
    for key, value in (load("gpus") if catalogue is None else catalogue).items():
        if "pcie" in words and value.get("link", "pcie") != "pcie":
            continue
        for spelling in (key, *_aliases(value)):
            parts = _words(spelling)
            if words >= parts and not (_OTHERS & words) - parts and len(parts) > best:
                found, best = key, len(parts)
    return found


def _words(product: str) -> frozenset[str]:
    return frozenset(product.lower().replace("-", " ").split())


def on_nodes(gpu: Gpu, gpus: int, nodes: int) -> Gpu:
    """The same device, so many of them spread over so many nodes. A link that joins nodes goes on doing so. Raises PlanError."""
    if gpus % nodes:
        fits = sorted((n for n in range(1, gpus + 1) if gpus % n == 0), key=lambda n: abs(n - nodes))[:2]
        raise PlanError(f"--nodes {nodes}: {gpus} GPUs do not divide by it; nearest {' or '.join(map(str, sorted(fits)))}")
    each = gpus // nodes
    return replace(gpu, node_gpus=each, link_gpus=gpu.link_gpus if gpu.link_gpus > gpu.node_gpus else min(gpu.link_gpus, each))


def over_pcie(gpu: Gpu) -> Gpu:
    """The same device with PCIe 4 x16 in NVLink's place: what TP costs without NVLink (measured on L40S)."""
    pcie = find_gpu("l40s")
    return replace(gpu, link="pcie", link_bandwidth=pcie.link_bandwidth, link_gpus=gpu.node_gpus)
