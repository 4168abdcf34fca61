"""Probes of processes, control groups and (a stand-in for) NVML: what cannot be told is None."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from telemetry import devices, nvml
from telemetry.cgroup import Cgroup
from telemetry.devices import DeviceProbe
from telemetry.nvml import GpuSample, Nvml


class FakeNvml:
    """As pynvml: two GPUs, of which the second is old: it tells its utilization and little more."""

    NVML_SUCCESS, NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_NOT_FOUND, NVML_ERROR_TIMEOUT = 0, 3, 6, 10
    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, NVML_CLOCK_MEM = 0, 1, 2
    NVML_VOLATILE_ECC, NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 0, 0, 1
    NVML_VALUE_TYPE_DOUBLE, NVML_VALUE_TYPE_UNSIGNED_INT, NVML_VALUE_TYPE_UNSIGNED_LONG = 0, 1, 2
    NVML_VALUE_TYPE_SIGNED_LONG_LONG = 4
    NVML_GPM_METRICS_GET_VERSION = 1
    nvmlEventTypeXidCriticalError = 8

    class NVMLError(Exception):
        pass

    def __init__(self):
        self.asked = 0
        self.reasons = 0x1
        self.xids = []
        self.counts = {197: (1, 5000), 198: (3, 7000), 138: (3, 10), 139: (3, 20)}  # by field: (type of value, value)
        self.ticks = 0  # of GPM: each sample reads it

    def _new(self, handle):
        if handle:
            raise self.NVMLError(self.NVML_ERROR_NOT_SUPPORTED)

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
        self._new(handle)
        return 250_500

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        self._new(handle)
        return 700_000

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return 40

    def nvmlDeviceGetClockInfo(self, handle, clock):
        return {self.NVML_CLOCK_SM: 1980, self.NVML_CLOCK_MEM: 2619}[clock]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        self._new(handle)
        return self.reasons

    def nvmlDeviceGetTotalEccErrors(self, handle, kind, counter):
        self._new(handle)
        return {0: 4, 1: 1}[kind]

    def nvmlDeviceGetFieldValues(self, handle, asked):
        told = []
        for field in asked:
            number, scope = field if isinstance(field, tuple) else (field, 0)
            assert scope == (0xFFFFFFFF if number in (138, 139) else 0)
            kind, count = self.counts.get(number, (3, 0))
            value = SimpleNamespace(**{{0: "dVal", 1: "uiVal", 3: "ullVal"}[kind]: count})
            error = self.NVML_SUCCESS if number in self.counts and not handle else self.NVML_ERROR_NOT_SUPPORTED
            told.append(SimpleNamespace(fieldId=number, valueType=kind, nvmlReturn=error, value=value))
        return told

    def nvmlEventSetCreate(self):
        return []

    def nvmlDeviceRegisterEvents(self, handle, kinds, events):
        self._new(handle)
        assert kinds == self.nvmlEventTypeXidCriticalError

    def nvmlEventSetWait_v2(self, events, timeout):
        if not self.xids:
            raise self.NVMLError(self.NVML_ERROR_TIMEOUT)
        return SimpleNamespace(eventData=self.xids.pop(0))

    def nvmlGpmQueryDeviceSupport(self, handle):
        return SimpleNamespace(isSupportedDevice=int(handle == 0))

    def nvmlGpmSampleAlloc(self):
        return SimpleNamespace(tick=None)

    def nvmlGpmSampleGet(self, handle, sample):
        self.ticks += 1
        sample.tick = self.ticks

    def c_nvmlGpmMetricsGet_t(self):
        return SimpleNamespace(metrics=[SimpleNamespace(nvmlReturn=0, value=0.0) for _ in range(20)])

    def nvmlGpmMetricsGet(self, asked):
        assert asked.sample2.tick == asked.sample1.tick + 1
        known = {2: 80.0, 5: float("nan"), 10: 45.5, 61: 3.0}
        for metric in asked.metrics[: asked.numMetrics]:
            metric.nvmlReturn = 0 if metric.metricId in known else self.NVML_ERROR_NOT_SUPPORTED
            metric.value = known.get(metric.metricId, -1.0)


@pytest.fixture
def fake_nvml(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


@pytest.fixture
def clock(monkeypatch):
    """`clock[0]`: the seconds that NVML's reader believes in."""
    now = [100.0]
    monkeypatch.setattr(nvml, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_gpu_tells_what_it_can(fake_nvml):
    gpus = Nvml()
    assert gpus.sample(0) == GpuSample(
        gpu_util=50.0,
        gpu_memory_used=10,
        gpu_memory_total=100,
        power_w=250.5,
        power_limit_w=700.0,
        temperature_c=40.0,
        sm_clock_mhz=1980,
        memory_clock_mhz=2619,
        throttle=[],
        ecc_corrected=4,
        ecc_uncorrected=1,
        xid=0,
        nvlink_tx=3.0 * (1 << 20),  # by GPM, as long as no counter was read twice
        sm_active=80.0,
        dram_active=45.5,
    )
    assert gpus.sample(1) == GpuSample(51.0, 10, 100, None, 40.0, 1980, 2619)
    assert gpus.sample(7) == GpuSample()
    gpus.sample(0)
    assert fake_nvml.asked == 2  # asked again too soon, NVML is left in peace


def test_rates_are_counters_over_time_and_a_counter_that_begins_again_tells_none(fake_nvml, clock):
    gpus = Nvml()
    assert gpus.sample(0).pcie_tx is None
    clock[0] += 2
    fake_nvml.counts = {197: (1, 6000), 198: (3, 100), 138: (3, 30), 139: (3, 20)}
    second = gpus.sample(0)
    assert (second.pcie_tx, second.pcie_rx) == (500.0, None)
    assert (second.nvlink_tx, second.nvlink_rx) == (10 * 1024, 0.0)
    clock[0] += 1
    fake_nvml.counts[198] = (3, 300)
    assert gpus.sample(0).pcie_rx == 200.0
    clock[0] += 1
    del fake_nvml.counts[197]
    assert gpus.sample(0).pcie_tx is None


def test_reasons_to_throttle_and_the_last_xid(fake_nvml, clock):
    gpus = Nvml()
    assert (gpus.sample(0).throttle, gpus.sample(0).xid) == ([], 0)
    clock[0] += 1
    fake_nvml.reasons, fake_nvml.xids = 0x1 | 0x4 | 0x40, [48, 79]
    sample = gpus.sample(0)
    assert (sample.throttle, sample.xid) == (["SW power cap", "HW thermal slowdown"], 79)
    clock[0] += 1
    fake_nvml.reasons = 0
    sample = gpus.sample(0)
    assert (sample.throttle, sample.xid) == ([], 79)


def test_a_record_carries_all_that_a_gpu_tells(fake_nvml):
    record = DeviceProbe().probe(3, 1, os.getpid(), "cuda:0")
    assert {name: getattr(record, name) for name in vars(GpuSample())} == vars(Nvml().sample(0))


@pytest.mark.parametrize(("visible", "util"), [("1,0", 51.0), ("GPU-one", 51.0), ("", 50.0)])
def test_gpus_are_numbered_as_cuda_numbers_them(fake_nvml, monkeypatch, visible, util):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Nvml().sample(0).gpu_util == util


def test_without_a_driver_everything_is_unavailable(fake_nvml, monkeypatch):
    def no_driver():
        raise fake_nvml.NVMLError("driver not loaded")

    monkeypatch.setattr(fake_nvml, "nvmlInit", no_driver)
    gpus = Nvml()
    assert (gpus.available, gpus.sample(0)) == (False, GpuSample())


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


def test_the_limits_of_the_control_group_are_told(monkeypatch):
    monkeypatch.setattr(devices, "MIN_INTERVAL_S", 0)
    probe = DeviceProbe()
    group = SimpleNamespace(cpu_quota=lambda: 1.5, memory_limit=lambda: 3 << 30)
    monkeypatch.setattr(probe, "_cgroup", group)
    record = probe.probe(0, 1, os.getpid(), "cpu")
    assert (record.cpu_limit, record.memory_limit) == (1.5, 3 << 30)
    group.cpu_quota = group.memory_limit = lambda: None
    record = probe.probe(0, 1, os.getpid(), "cpu")
    assert (record.cpu_limit, record.memory_limit) == (None, None)


def test_limits_of_cgroup_v2_and_every_group_above(tmp_path):
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/app\n",
            "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 4000 kB\n",
            "sys/fs/cgroup/pod/memory.max": "3000000",
            "sys/fs/cgroup/pod/memory.current": "2500000",
            "sys/fs/cgroup/pod/memory.stat": "anon 5\ninactive_file 100000\n",
            "sys/fs/cgroup/pod/cpu.max": "150000 100000",
            "sys/fs/cgroup/pod/app/memory.max": "max",
            "sys/fs/cgroup/pod/app/cpu.max": "max 100000",
        },
    )
    group = Cgroup(tmp_path)
    assert (group.memory_limit(), group.memory_total()) == (3_000_000, 3_000_000)
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
    write(tmp_path / "bare", {"proc/meminfo": "MemTotal: 9000 kB\n"})
    assert Cgroup(tmp_path / "bare").memory_total() == 9000 * 1024
    assert (group.memory_limit(), group.memory_available(), group.cpu_quota()) == (2_000_000, 1_500_000, None)
    nowhere = Cgroup(tmp_path / "nowhere")
    assert (nowhere.memory_limit(), nowhere.cpu_quota()) == (None, None)
    assert Cgroup().memory_available() > 0
