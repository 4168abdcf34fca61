"""Where a rank's memory is: disjoint parts that add up to what its process, or its device, holds."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from runtime.rank.config import RankConfig
from telemetry.cgroup import Cgroup
from telemetry.records import RankMemory

_PAGE = 4096
_NOTICED = 1 << 20  # bytes: where the resident set moved by less, no pages of the cache were touched that are worth looking for
_libc = ctypes.CDLL(None, use_errno=True)


class MemoryProbe(Protocol):
    """Made when the weights are there and the KV cache is not."""

    def read(self, caches: Sequence[torch.Tensor]) -> RankMemory:
        """The parts now. `caches`: the tensors of the KV cache."""
        ...


def memory_probe(config: RankConfig, device: torch.device, weights: int) -> MemoryProbe:
    """`weights`: their bytes, as loaded."""
    return HostMemory(config, weights) if device.type == "cpu" else DeviceMemory(config, device, weights)


class HostMemory:
    """Parts of the resident set.

    kv: pages of the cache that were ever touched. workspace: shared memory, where the collectives meet. other: what was there
    beside the weights when they had been loaded (interpreter, libraries, tables), and files. activations: what came since; a
    rank keeps what a forward pass frees (`mallopt`), so this is the most that any has held.
    """

    def __init__(self, config: RankConfig, weights: int) -> None:
        self._config, self._weights = config, weights
        self._other = max(0, _resident_set().anonymous - weights)
        self._cgroup = Cgroup()
        self._total = self._cgroup.memory_total()
        self._kv = self._looked = -_NOTICED  # bytes of the cache, and of the resident set when they were looked for

    def read(self, caches: Sequence[torch.Tensor]) -> RankMemory:
        held = _resident_set()
        if abs(held.anonymous - self._looked) >= _NOTICED:
            self._kv, self._looked = sum(map(resident_bytes, caches)), held.anonymous
        kv = min(self._kv, held.anonymous)
        weights = min(self._weights, held.anonymous - kv)
        other = min(self._other, held.anonymous - kv - weights)
        return RankMemory(
            rank=self._config.rank,
            generation=self._config.generation,
            weights=weights,
            kv=kv,
            activations=held.anonymous - kv - weights - other,
            total=self._total,
            free=self._cgroup.memory_available(),
            workspace=held.shared,
            other=other + held.files,
            used=held.anonymous + held.files + held.shared,
            peak=held.peak,
            time_ns=time.perf_counter_ns(),
        )


class DeviceMemory:
    """Parts of a CUDA device's memory.

    activations: the most that forward passes held at once. workspace: what the allocator holds beyond that and weights and
    cache: captured graphs, gaps. other: what the device holds beyond the allocator (CUDA context, NCCL); not known where several
    ranks share it.
    """

    def __init__(self, config: RankConfig, device: torch.device, weights: int) -> None:
        self._config, self._device, self._weights = config, device, weights
        self._loaded = torch.cuda.memory_allocated(device)
        self._peak = 0

    def read(self, caches: Sequence[torch.Tensor]) -> RankMemory:
        free, total = torch.cuda.mem_get_info(self._device)
        kv = sum(cache.numel() * cache.element_size() for cache in caches)
        reserved = torch.cuda.memory_reserved(self._device)
        room = max(0, reserved - self._weights - kv)
        activations = min(room, max(0, torch.cuda.max_memory_allocated(self._device) - self._loaded - kv))
        other = None if self._config.emulated else max(0, total - free - reserved)
        used = self._weights + kv + room + (other or 0)
        self._peak = max(self._peak, used)
        return RankMemory(
            rank=self._config.rank,
            generation=self._config.generation,
            weights=self._weights,
            kv=kv,
            activations=activations,
            total=int(total * self._config.gpu_memory_utilization),
            free=free,
            workspace=room - activations,
            other=other,
            used=used,
            peak=self._peak,
            time_ns=time.perf_counter_ns(),
        )


class _ResidentSet(NamedTuple):
    """Bytes of this process in memory, by kind, and the most that there ever were."""

    anonymous: int
    files: int
    shared: int
    peak: int


def _resident_set() -> _ResidentSet:
    found = dict.fromkeys(("RssAnon:", "RssFile:", "RssShmem:", "VmHWM:"), 0)
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, rest = line.partition("\t")
        if name in found:
            found[name] = int(rest.split()[0]) * 1024
    return _ResidentSet(*found.values())


def resident_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a CPU tensor's pages that are in memory: an untouched page of zeros is not. Costs 0.4 to 1 ms a GiB."""
    start = tensor.data_ptr() // _PAGE * _PAGE
    length = tensor.data_ptr() + tensor.numel() * tensor.element_size() - start
    pages = np.empty(-(-length // _PAGE), dtype=np.uint8)
    if _libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(length), pages.ctypes.data_as(ctypes.c_void_p)):
        return tensor.numel() * tensor.element_size()  # the kernel does not tell: all of it may be
    return min(int(np.count_nonzero(pages & 1)) * _PAGE, tensor.numel() * tensor.element_size())
