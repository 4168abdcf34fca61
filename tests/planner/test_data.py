"""The data files: every number has its source, every device and format its rates."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.planner.hardware import catalogued, find_gpu, named_gpus
from runtime.planner.names import PlanError, load
from runtime.planner.parameters import find_format, grouped, rates, read_curve


def sourced(entry: Any, inherited: bool = False) -> bool:
    """Does every dictionary of numbers, or one above it, name its source?"""
    if not isinstance(entry, dict):
        return True
    here = inherited or "source" in entry
    plain = [value for key, value in entry.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    return (here or not plain) and all(sourced(value, here) for value in entry.values())


def test_every_parameter_names_its_source() -> None:
    parameters = load("parameters")
    protocols = parameters["protocols"]
    assert all(key.startswith("source_") or isinstance(value, dict) for key, value in protocols.items())
    assert all(sourced(section) for name, section in parameters.items() if name != "protocols")
    assert all(entry["source"] for name in ("gpus", "models") for entry in load(name).values())


@pytest.mark.parametrize("name", named_gpus())
def test_devices_reach_less_than_their_data_sheet(name: str) -> None:
    gpu = find_gpu(name)
    for form in ("bf16", "fp8", "fp4", "int8", "int4", "mxfp4", "mxfp4-marlin", "fp8-block"):
        found, experts = rates(gpu, find_format(form)), grouped(gpu, find_format(form), "vllm")
        assert 0.3 * gpu.bandwidth < found.memory < gpu.bandwidth
        assert 0.1 * min(gpu.flops.values()) < found.compute < max(gpu.flops.values())
        assert experts.memory <= gpu.bandwidth * 1.01
        assert 0 < experts.compute < max(gpu.flops.values())


def test_rates_are_dense() -> None:
    """A seed's table prints them with sparsity."""
    assert find_gpu("h100").flops["bf16"] == 989e12
    assert find_gpu("b200").flops["bf16"] == 2250e12
    assert find_gpu("l4").flops["bf16"] == 121e12
    assert find_gpu("h100").link_bandwidth == 450e9  # 900 counts both directions


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA GH200 480GB", "gh200-96gb"),
        ("NVIDIA GH200 144G HBM3e", "gh200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA A10G", "a10"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("Tesla V100-SXM2-16GB", "v100-16gb"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 3060", "rtx-3060"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        # others of a name: smaller chips, slices of one, boards without the link
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3060 Ti", None),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", None),
        ("Tesla V100-PCIE-16GB", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None),
        ("Quadro RTX 6000", None),
        ("NVIDIA GeForce RTX 3080", None),
        ("Radeon", None),
        ("", None),
    ],
)
def test_devices_are_known_by_the_drivers_names(product: str, name: str | None) -> None:
    assert catalogued(product) == name


@pytest.mark.parametrize("product", ["NVIDIA H100 80GB HBM3", "nvidia h100 nvl", "Tesla T4", "h100 pcie", "A100_PCIE_40GB"])
def test_a_drivers_name_will_do_for_an_entrys(product: str) -> None:
    assert find_gpu(product).name == catalogued(product.replace("_", "-"))


def test_a_name_of_another_device_is_no_entrys() -> None:
    with pytest.raises(PlanError, match=r"'NVIDIA GeForce RTX 4090 Laptop GPU' is not known; .*--gpu-file"):
        find_gpu("NVIDIA GeForce RTX 4090 Laptop GPU")


def test_a_gpu_without_bfloat16_says_so() -> None:
    assert [name for name in named_gpus() if not find_gpu(name).bfloat16] == ["t4", "v100", "v100-16gb"]


def test_ones_own_gpu(tmp_path: Path) -> None:
    path = tmp_path / "gpus.json"
    table = {"2": [[8192, 50.0], [1048576, 400.0]]}
    mine = {"memory_gib": 10, "bandwidth_gb_s": 100, "tflops": {"bf16": 5}, "measured": {"all_reduce_us": table}}
    path.write_text(json.dumps({"mine": mine, "broken": {"memory_gib": 1}}))
    assert find_gpu("mine", path).bandwidth == 100e9
    assert find_gpu("h100", path).name == "h100"
    with pytest.raises(PlanError, match="lacks bandwidth_gb_s"):
        find_gpu("broken", path)
    with pytest.raises(PlanError, match="'h10' is not known; near by"):
        find_gpu("h10")
    path.write_text("{")
    with pytest.raises(PlanError, match="cannot be read"):
        find_gpu("mine", path)


def test_curves_are_flat_beyond_their_points() -> None:
    points = ((1.0, 10.0), (4.0, 20.0))
    assert [read_curve(points, x) for x in (0.5, 1, 2, 4, 100)] == [10, 10, 15, 20, 20]


def test_the_planner_needs_no_torch() -> None:
    code = "import sys, runtime.planner.report, runtime.planner.command, runtime.planner.launch; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
