"""Probes of processes, control groups and (a stand-in for) NVML: what cannot be told is None."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from telemetry import devices
from telemetry.cgroup import Cgroup
from telemetry.devices import DeviceProbe, GpuSample, Nvml


class FakeNvml:
    """As pynvml: two GPUs, of which the second does not tell its power."""

    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1
    NVML_ERROR_NOT_FOUND = 6

    class NVMLError(Exception):
        pass

    def __init__(self):
        self.asked = 0

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByIndex(self, index):
        if index > 1:
            raise self.NVMLError(self.NVML_ERROR_NOT_FOUND)
        return index

    def nvmlDeviceGetHandleByUUID(self, name):
        return {"GPU-one": 1}[name]

    def nvmlDeviceGetUtilizationRates(self, handle):
        self.asked += 1
        return SimpleNamespace(gpu=50 + handle)

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(used=10, total=100)

    def nvmlDeviceGetPowerUsage(self, handle):
        if handle == 1:
            raise self.NVMLError("not supported")
        return 250_500

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return 40

    def nvmlDeviceGetClockInfo(self, handle, clock):
        return 1980


@pytest.fixture
def fake_nvml(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


def test_a_gpu_tells_what_it_can(fake_nvml):
    nvml = Nvml()
    assert nvml.sample(0) == GpuSample(50.0, 10, 100, 250.5, 40.0, 1980)
    assert nvml.sample(1).power_w is None
    assert nvml.sample(7) == GpuSample()
    nvml.sample(0)
    assert fake_nvml.asked == 2  # asked again too soon, NVML is left in peace


@pytest.mark.parametrize(("visible", "util"), [("1,0", 51.0), ("GPU-one", 51.0), ("", 50.0)])
def test_gpus_are_numbered_as_cuda_numbers_them(fake_nvml, monkeypatch, visible, util):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Nvml().sample(0).util == util


def test_without_a_driver_everything_is_unavailable(fake_nvml, monkeypatch):
    def no_driver():
        raise fake_nvml.NVMLError("driver not loaded")

    monkeypatch.setattr(fake_nvml, "nvmlInit", no_driver)
    nvml = Nvml()
    assert (nvml.available, nvml.sample(0)) == (False, GpuSample())


def test_a_process_that_works_and_then_is_gone(monkeypatch):
    monkeypatch.setattr(devices, "MIN_INTERVAL_S", 600)
    probe = DeviceProbe()
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        first = probe.probe(0, 1, child.pid, "cpu")
        assert first.cpu_percent is None
        assert first.rss > 0
        assert probe.probe(0, 1, child.pid, "cpu") is first
        monkeypatch.setattr(devices, "MIN_INTERVAL_S", 0)
        deadline = time.monotonic() + 10
        while not (later := probe.probe(0, 1, child.pid, "cpu")).cpu_percent:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert later.gpu_util is None
    finally:
        child.kill()
        child.wait()
    gone = probe.probe(0, 1, child.pid, "cpu")
    assert (gone.cpu_percent, gone.rss) == (None, None)


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_limits_of_cgroup_v2_and_every_group_above(tmp_path):
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/app\n",
            "proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 4000 kB\n",
            "sys/fs/cgroup/pod/memory.max": "3000000",
            "sys/fs/cgroup/pod/memory.current": "2500000",
            "sys/fs/cgroup/pod/memory.stat": "anon 5\ninactive_file 100000\n",
            "sys/fs/cgroup/pod/cpu.max": "150000 100000",
            "sys/fs/cgroup/pod/app/memory.max": "max",
            "sys/fs/cgroup/pod/app/cpu.max": "max 100000",
        },
    )
    group = Cgroup(tmp_path)
    assert group.memory_limit() == 3_000_000
    assert group.memory_available() == 600_000
    assert group.cpu_quota() == 1.5
    assert group.cpus() == min(1.5, len(os.sched_getaffinity(0)))


def test_limits_of_cgroup_v1_and_of_none(tmp_path):
    write(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/job\n2:cpu,cpuacct:/\n0::/\n",
            "proc/meminfo": "MemAvailable: 4000 kB\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "2000000",
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "500000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    )
    group = Cgroup(tmp_path)
    assert (group.memory_limit(), group.memory_available(), group.cpu_quota()) == (2_000_000, 1_500_000, None)
    nowhere = Cgroup(tmp_path / "nowhere")
    assert (nowhere.memory_limit(), nowhere.cpu_quota()) == (None, None)
    assert Cgroup().memory_available() > 0
