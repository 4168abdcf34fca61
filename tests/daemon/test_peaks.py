"""What a deployment's devices can do: by the catalogue or by a calibration, shared by ranks; unavailable where nobody says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runtime.daemon import peaks
from runtime.daemon.peaks import device_peaks
from runtime.daemon.settle import Placement
from runtime.planner.calibration import Calibration, save
from runtime.planner.local import calibration_path
from runtime.planner.names import PlanError
from telemetry.records import Peaks

ON_CPU = Placement("cpu", ("cpu",) * 4, "bfloat16", "shm", 1, ((),) * 4, False, False, 64)
ON_GPUS = replace(ON_CPU, device="cuda", devices=("cuda:0", "cuda:1"), transport="nccl")
DEVICE = {"memory_gib": 8, "bandwidth_gb_s": 40, "tflops": {"bf16": 2, "fp32": 0.5}, "link": "shm", "shared": True}


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def test_a_cpu_is_what_it_was_measured_to_be_and_its_ranks_share_it() -> None:
    assert device_peaks(ON_CPU) is None, "before anybody measured it"
    save(Calibration("two cores", gpu="cpu", date="2026-11-21"), calibration_path("cpu"), device=DEVICE)
    assert device_peaks(ON_CPU) == Peaks(0.5e12, 10e9, "measured here, 2026-11-21")
    assert device_peaks(replace(ON_CPU, dtype="float32")) == Peaks(0.125e12, 10e9, "measured here, 2026-11-21")
    calibration_path("cpu").write_text("{")
    assert device_peaks(ON_CPU) is None, "a calibration that cannot be read"


def test_a_gpu_is_what_the_catalogue_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "local_gpu", lambda: "h200")
    monkeypatch.setattr(peaks, "_has_nvlinks", lambda: True)
    assert device_peaks(ON_GPUS) == Peaks(989e12, 4800e9, "h200's data sheet", "nvlink", 450e9)
    assert device_peaks(replace(ON_GPUS, dtype="float16")) == device_peaks(ON_GPUS)
    assert device_peaks(replace(ON_GPUS, devices=("cuda:0",))) == Peaks(989e12, 4800e9, "h200's data sheet")
    four_on_two = replace(ON_GPUS, devices=("cuda:0", "cuda:1") * 2, emulated=True)
    assert device_peaks(four_on_two) == Peaks(989e12 / 2, 2400e9, "h200's data sheet")

    monkeypatch.setattr(peaks, "_has_nvlinks", lambda: False)
    assert device_peaks(ON_GPUS) == Peaks(989e12, 4800e9, "h200's data sheet", "pcie", 32e9)

    def unknown() -> str:
        raise PlanError("this machine's GPU 'NVIDIA Nouveau' is not in the catalogue")

    monkeypatch.setattr(peaks, "local_gpu", unknown)
    assert device_peaks(ON_GPUS) is None
