"""What the kernel says of a rank's process and the driver of its GPU, sampled at 2 Hz and never faster."""

from __future__ import annotations

import time

import psutil

from telemetry.cgroup import Cgroup
from telemetry.nvml import GpuSample, Nvml
from telemetry.records import DeviceRecord

MIN_INTERVAL_S = 0.5
_NO_GPU = GpuSample()


class DeviceProbe:
    """Samples ranks' processes and devices. NVML may take milliseconds: call it from a thread, always one at a time."""

    def __init__(self) -> None:
        self.nvml = Nvml()
        self._cgroup = Cgroup()
        self._limits: tuple[float, float | None, int | None] = (-MIN_INTERVAL_S, None, None)
        self._processes: dict[int, psutil.Process] = {}
        self._last: dict[int, tuple[tuple[int, int, int, str], DeviceRecord]] = {}  # by pid: (what was asked, answer)

    def probe(self, rank: int, generation: int, pid: int, device: str) -> DeviceRecord:
        """A rank's process and its device ("cpu", "cuda:0"); the last record again when asked too soon.

        The limits are those of this process' control group, which its children share.
        """
        asked = rank, generation, pid, device
        now_ns = time.perf_counter_ns()
        before, last = self._last.get(pid, (None, None))
        if last is not None and before == asked and now_ns - last.time_ns < MIN_INTERVAL_S * 1e9:
            return last
        cpu_percent, rss = self._process(pid)
        cpu_limit, memory_limit = self._granted()
        kind, _, index = device.partition(":")
        gpu = self.nvml.sample(int(index or 0)) if kind == "cuda" else _NO_GPU
        record = DeviceRecord(
            rank=rank,
            generation=generation,
            time_ns=now_ns,
            cpu_percent=cpu_percent,
            rss=rss,
            cpu_limit=cpu_limit,
            memory_limit=memory_limit,
            **vars(gpu),
        )
        if rss is None:
            self._last.pop(pid, None)
        else:
            self._last[pid] = asked, record
        return record

    def _granted(self) -> tuple[float | None, int | None]:
        """(cores, bytes) of the control group, read as often as the rest: both can be changed while it runs."""
        when, cpu, memory = self._limits
        now = time.monotonic()
        if now - when >= MIN_INTERVAL_S:
            cpu, memory = self._cgroup.cpu_quota(), self._cgroup.memory_limit()
            self._limits = now, cpu, memory
        return cpu, memory

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
