"""What the devices of a deployment can do at most: as the catalogue has it of a GPU, as `shardscope calibrate` measured a CPU."""

from __future__ import annotations

import logging
from collections import Counter

import msgspec

from runtime.daemon.settle import Placement
from runtime.planner.calibration import Calibration, load
from runtime.planner.hardware import Gpu, find_gpu, over_pcie
from runtime.planner.local import CPU, calibration_path, local_gpu
from runtime.planner.names import PlanError
from telemetry.records import Peaks

log = logging.getLogger(__name__)

_FORMS = {"bfloat16": ("bf16",), "float16": ("fp16", "bf16"), "float32": ("fp32",)}  # half precisions run at one rate


def device_peaks(placement: Placement) -> Peaks | None:
    """One rank's part of them; `None` where nobody says. Blocks for some milliseconds."""
    try:
        found = _measured_cpu() if placement.device == CPU else _catalogued_gpu()
    except (PlanError, OSError) as error:
        log.info("no peaks to compare with: %s", error)
        return None
    if found is None:
        return None
    device, source = found
    flops = next((device.flops[form] for form in _FORMS[placement.dtype] if form in device.flops), None)
    ranks = max(Counter(placement.devices).values())  # that share a device
    if flops is None:
        return None
    peaks = Peaks(flops / ranks, device.bandwidth / ranks, source)
    if placement.device == CPU or placement.emulated or len(placement.devices) < 2:
        return peaks
    joined = device if device.link != "nvlink" or _has_nvlinks() else over_pcie(device)
    return msgspec.structs.replace(peaks, link=joined.link, link_bandwidth=joined.link_bandwidth)


def _measured_cpu() -> tuple[Gpu, str] | None:
    path = calibration_path(CPU)
    calibration = load(path) if path.is_file() else Calibration()
    return None if calibration.device is None else (calibration.device, f"measured here, {calibration.date}")


def _has_nvlinks() -> bool:
    """Whether the first GPU has an NVLink that is up: the same GPU is also sold without."""
    import pynvml

    try:
        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        return any(pynvml.nvmlDeviceGetNvLinkState(gpu, link) for link in range(pynvml.NVML_NVLINK_MAX_LINKS))
    except pynvml.NVMLError:
        return False


def _catalogued_gpu() -> tuple[Gpu, str] | None:
    name = local_gpu()
    return None if name is None else (find_gpu(name), f"{name}'s data sheet")
