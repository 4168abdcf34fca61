"""What NVIDIA's driver says of a GPU, through NVML, at 2 Hz and never faster. What a GPU does not tell is `None`, never 0."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

MIN_INTERVAL_S = 0.5  # NVML takes locks in the driver that the ranks need too
KIB, MIB = 1 << 10, 1 << 20

T = TypeVar("T")
log = logging.getLogger(__name__)

# by bit of the clocks' event reasons, in nvidia-smi's words; an idle GPU's clocks are low too, which is no throttling
REASONS = {
    0x002: "applications clocks setting",
    0x004: "SW power cap",
    0x008: "HW slowdown",
    0x010: "sync boost",
    0x020: "SW thermal slowdown",
    0x040: "HW thermal slowdown",
    0x080: "HW power brake slowdown",
    0x100: "display clock setting",
}
ALL_LINKS = (1 << 32) - 1  # the scope of a field that is summed over links
# counters by their field: bytes of one unit
PCIE_TX, PCIE_RX, NVLINK_TX, NVLINK_RX = 197, 198, 138, 139
UNITS = {PCIE_TX: 1, PCIE_RX: 1, NVLINK_TX: KIB, NVLINK_RX: KIB}
# metrics of GPM (Hopper and later)
SM_ACTIVE, TENSOR_ACTIVE, DRAM_ACTIVE = 2, 5, 10
GPM_RATES = {PCIE_TX: 20, PCIE_RX: 21, NVLINK_TX: 61, NVLINK_RX: 60}  # MiB/s, where a counter is not told


@dataclass(frozen=True)
class GpuSample:
    """What NVML tells of one GPU, under `DeviceRecord`'s names; `None` is what this GPU, driver or MIG slice does not tell.

    `gpu_util`: percent of the last sampling period in which any kernel ran. `gpu_memory_used` is the whole device's, of all
    processes. Rates and the `_active` percentages are of the time since the sample before.
    """

    gpu_util: float | None = None
    gpu_memory_used: int | None = None
    gpu_memory_total: int | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    power_limit_w: float | None = None
    throttle: list[str] | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    xid: int | None = None
    pcie_tx: float | None = None
    pcie_rx: float | None = None
    nvlink_tx: float | None = None
    nvlink_rx: float | None = None
    sm_active: float | None = None
    tensor_active: float | None = None
    dram_active: float | None = None


class Nvml:
    """The GPUs of this machine, numbered as CUDA numbers them for processes that inherit this environment."""

    def __init__(self) -> None:
        self._library: ModuleType | None = None
        self._gpus: dict[int, _Gpu] = {}
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
        try:
            if index not in self._gpus:
                self._gpus[index] = _Gpu(nvml, _handle(nvml, index))
        except nvml.NVMLError:
            return GpuSample()
        return self._gpus[index].read()


class _Gpu:
    """One GPU, and what was counted when it was last asked."""

    def __init__(self, nvml: ModuleType, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._counted: dict[int, tuple[float, int]] = {}
        self._xids = self._ask(lambda: _xid_events(nvml, handle))
        self._xid = 0
        self._gpm = self._ask(lambda: _Gpm(nvml, handle))

    def _ask(self, question: Callable[[], T]) -> T | None:
        """The answer, if this GPU and this driver have one."""
        try:
            return question()
        except (self._nvml.NVMLError, AttributeError):
            return None

    def read(self) -> GpuSample:
        nvml, handle, ask = self._nvml, self._handle, self._ask
        memory = ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        reasons = ask(lambda: int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)))
        gpm = (ask(self._gpm.read) if self._gpm else None) or {}
        rates = {field: gpm[metric] * MIB for field, metric in GPM_RATES.items() if metric in gpm} | self._rates()

        def ecc(kind: int) -> int | None:
            return ask(lambda: int(nvml.nvmlDeviceGetTotalEccErrors(handle, kind, nvml.NVML_VOLATILE_ECC)))

        return GpuSample(
            gpu_util=ask(lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
            gpu_memory_used=None if memory is None else int(memory.used),
            gpu_memory_total=None if memory is None else int(memory.total),
            power_w=ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            temperature_c=ask(lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            sm_clock_mhz=ask(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            memory_clock_mhz=ask(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))),
            power_limit_w=ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
            throttle=None if reasons is None else [words for bit, words in REASONS.items() if reasons & bit],
            ecc_corrected=ecc(nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            ecc_uncorrected=ecc(nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            xid=self._last_xid(),
            pcie_tx=rates.get(PCIE_TX),
            pcie_rx=rates.get(PCIE_RX),
            nvlink_tx=rates.get(NVLINK_TX),
            nvlink_rx=rates.get(NVLINK_RX),
            sm_active=gpm.get(SM_ACTIVE),
            tensor_active=gpm.get(TENSOR_ACTIVE),
            dram_active=gpm.get(DRAM_ACTIVE),
        )

    def _rates(self) -> dict[int, float]:
        """Bytes/s by field, of the counters that this GPU has and that were read before."""
        nvml, now = self._nvml, time.monotonic()
        asked = [PCIE_TX, PCIE_RX, (NVLINK_TX, ALL_LINKS), (NVLINK_RX, ALL_LINKS)]
        told: Iterable[Any] = self._ask(lambda: nvml.nvmlDeviceGetFieldValues(self._handle, asked)) or ()
        rates = {}
        for value in told:
            if value.nvmlReturn != nvml.NVML_SUCCESS:
                continue
            field, count = int(value.fieldId), _number(nvml, value)
            before = self._counted.get(field)
            self._counted[field] = now, count
            if before is not None and count >= before[1] and now > before[0]:  # less: it has begun again
                rates[field] = (count - before[1]) * UNITS[field] / (now - before[0])
        return rates

    def _last_xid(self) -> int | None:
        """None: this GPU does not tell."""
        if self._xids is None:
            return None
        while (event := self._ask(lambda: self._nvml.nvmlEventSetWait_v2(self._xids, 0))) is not None:
            self._xid = int(event.eventData)
        return self._xid


class _Gpm:
    """Activity between two samples. Raises NVMLError, or AttributeError with an old library, where there is none."""

    def __init__(self, nvml: ModuleType, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        if not nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        self._before, self._now = nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()
        nvml.nvmlGpmSampleGet(handle, self._now)

    def read(self) -> Mapping[int, float]:
        """By metric: percent, or MiB/s."""
        nvml = self._nvml
        self._before, self._now = self._now, self._before
        nvml.nvmlGpmSampleGet(self._handle, self._now)
        metrics = [SM_ACTIVE, TENSOR_ACTIVE, DRAM_ACTIVE, *GPM_RATES.values()]
        asked = nvml.c_nvmlGpmMetricsGet_t()
        asked.version, asked.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, len(metrics)
        asked.sample1, asked.sample2 = self._before, self._now
        for place, metric in enumerate(metrics):
            asked.metrics[place].metricId = metric
        nvml.nvmlGpmMetricsGet(asked)
        told = (asked.metrics[place] for place in range(len(metrics)))
        return {int(m.metricId): float(m.value) for m in told if m.nvmlReturn == nvml.NVML_SUCCESS and math.isfinite(m.value)}


def _number(nvml: ModuleType, value: Any) -> int:
    """A field's value, which is a union."""
    names = {
        nvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
        nvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    }
    return int(getattr(value.value, names.get(value.valueType, "ullVal")))


def _xid_events(nvml: ModuleType, handle: Any) -> Any:
    events = nvml.nvmlEventSetCreate()
    nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
    return events


def _handle(nvml: ModuleType, index: int) -> Any:
    """NVML numbers all GPUs of the machine; CUDA those that CUDA_VISIBLE_DEVICES leaves, in its order."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if not visible:
        return nvml.nvmlDeviceGetHandleByIndex(index)
    if index >= len(visible):
        raise nvml.NVMLError(nvml.NVML_ERROR_NOT_FOUND)
    name = visible[index]
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)
