"""What the kernel says of a rank's process and the driver of its GPU, sampled at 2 Hz and never faster."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import psutil

from telemetry.records import DeviceRecord

MIN_INTERVAL_S = 0.5  # NVML takes locks in the driver that the ranks need too

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GpuSample:
    """What NVML tells of one GPU; `None` is what this GPU, driver or MIG slice does not tell.

    `util`: percent of the last sampling period in which any kernel ran. `memory_used` is the whole device's, of all processes.
    """

    util: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    sm_clock_mhz: int | None = None


class Nvml:
    """The GPUs of this machine, numbered as CUDA numbers them for processes that inherit this environment."""

    def __init__(self) -> None:
        self._library: ModuleType | None = None
        self._samples: dict[int, tuple[float, GpuSample]] = {}
        with contextlib.suppress(ImportError):
            import pynvml

            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                log.info("no NVML: %s", error)
            else:
                self._library = pynvml

    @property
    def available(self) -> bool:
        return self._library is not None

    def sample(self, index: int) -> GpuSample:
        """The state of CUDA device `index`; the last sample again when asked too soon."""
        now = time.monotonic()
        when, sample = self._samples.get(index, (-MIN_INTERVAL_S, GpuSample()))
        if self._library is not None and now - when >= MIN_INTERVAL_S:
            sample = self._read(self._library, index)
            self._samples[index] = now, sample
        return sample

    def _read(self, nvml: ModuleType, index: int) -> GpuSample:
        def ask(question: Callable[[], T]) -> T | None:
            try:
                return question()
            except nvml.NVMLError:
                return None

        handle = ask(lambda: _handle(nvml, index))
        if handle is None:
            return GpuSample()
        memory = ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        return GpuSample(
            util=ask(lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            power_w=ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            temperature_c=ask(lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            sm_clock_mhz=ask(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
        )


class DeviceProbe:
    """Samples ranks' processes and devices. NVML may take milliseconds: call it from a thread, always one at a time."""

    def __init__(self) -> None:
        self.nvml = Nvml()
        self._processes: dict[int, psutil.Process] = {}
        self._last: dict[int, tuple[tuple[int, int, int, str], DeviceRecord]] = {}  # by pid: (what was asked, answer)

    def probe(self, rank: int, generation: int, pid: int, device: str) -> DeviceRecord:
        """A rank's process and its device ("cpu", "cuda:0"); the last record again when asked too soon."""
        asked = rank, generation, pid, device
        now_ns = time.perf_counter_ns()
        before, last = self._last.get(pid, (None, None))
        if last is not None and before == asked and now_ns - last.time_ns < MIN_INTERVAL_S * 1e9:
            return last
        cpu_percent, rss = self._process(pid)
        kind, _, index = device.partition(":")
        gpu = self.nvml.sample(int(index or 0)) if kind == "cuda" else GpuSample()
        record = DeviceRecord(
            rank=rank,
            generation=generation,
            time_ns=now_ns,
            cpu_percent=cpu_percent,
            rss=rss,
            gpu_util=gpu.util,
            gpu_memory_used=gpu.memory_used,
            gpu_memory_total=gpu.memory_total,
            power_w=gpu.power_w,
            temperature_c=gpu.temperature_c,
            sm_clock_mhz=gpu.sm_clock_mhz,
        )
        if rss is None:
            self._last.pop(pid, None)
        else:
            self._last[pid] = asked, record
        return record

    def _process(self, pid: int) -> tuple[float | None, int | None]:
        """(CPU percent of one core since the last call, resident bytes); CPU is unknown at the first call."""
        try:
            process = self._processes.get(pid)
            if process is None or not process.is_running():
                process = self._processes[pid] = psutil.Process(pid)
                process.cpu_percent()
                return None, process.memory_info().rss
            return process.cpu_percent(), process.memory_info().rss
        except psutil.Error:
            self._processes.pop(pid, None)
            return None, None


def _handle(nvml: ModuleType, index: int) -> Any:
    """NVML numbers all GPUs of the machine; CUDA those that CUDA_VISIBLE_DEVICES leaves, in its order."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if not visible:
        return nvml.nvmlDeviceGetHandleByIndex(index)
    if index >= len(visible):
        raise nvml.NVMLError(nvml.NVML_ERROR_NOT_FOUND)
    name = visible[index]
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)
