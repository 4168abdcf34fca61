"""What the driver and the operating system say of one rank's device and process."""

from __future__ import annotations

from telemetry.records import DeviceRecord
from telemetry.snapshot import RankView
from tui.view.figures import UNAVAILABLE, percent, size, whole
from tui.view.line import Line, Part, Span, clean, keep, line, rule

_GB = 1e9  # links are told in powers of ten, as their makers do


def device_panel(rank: RankView, units: str, columns: int) -> list[Line]:
    """A title and a GPU's nine rows, or a CPU's three; what nobody tells is `--`."""
    told = rank.device or DeviceRecord(rank.info.rank, 0, 0)
    lines = [rule((Span("device ", "title"), Span(clean(rank.info.device), "bold")), (), columns)]
    rows = [*_work(rank), *_process(told, units)]
    if not rank.info.device.startswith("cpu"):
        work, (_cpu, cpu), (_rss, rss) = rows
        rows = [work, *_gpu(told), ("process", [("CPU " + cpu[0][0], ""), ("RSS " + rss[0][0], ""), *cpu[1:], *rss[1:]])]
    return lines + [_row(name, parts, columns) for name, parts in rows]


def _row(name: str, parts: list[tuple[str, str]], columns: int) -> Line:
    kept = keep([Part(i, line(text, role)) for i, (text, role) in enumerate(parts)], max(1, columns - 10))
    return (Span(f" {name:<9}", "dim"), *kept)


def _gpu(told: DeviceRecord) -> list[tuple[str, list[tuple[str, str]]]]:
    throttled = bool(told.throttle)
    reasons = UNAVAILABLE if told.throttle is None else clean(", ".join(told.throttle)) + "!" if throttled else "none"
    xid = UNAVAILABLE if told.xid is None else f"{told.xid}!" if told.xid else "none"
    wrong = (told.ecc_uncorrected or 0) > 0
    return [
        ("power", [(f"{whole(told.power_w)} of {whole(told.power_limit_w)} W", ""), (f"{whole(told.temperature_c)} °C", "")]),
        ("clocks", [(f"SM {whole(told.sm_clock_mhz)} MHz", ""), (f"memory {whole(told.memory_clock_mhz)} MHz", "")]),
        ("throttle", [(reasons, "warn" if throttled else "")]),
        (
            "faults",
            [
                (f"Xid {xid}", "bad" if told.xid else ""),
                (f"ECC {whole(told.ecc_uncorrected)}{'!' if wrong else ''}", "bad" if wrong else ""),
                (f"corrected {whole(told.ecc_corrected)}", ""),
            ],
        ),
        ("PCIe", [(f"in {_rate(told.pcie_rx)}", ""), (f"out {_rate(told.pcie_tx)} GB/s", "")]),
        ("NVLink", [(f"in {_rate(told.nvlink_rx)}", ""), (f"out {_rate(told.nvlink_tx)} GB/s", "")]),
        ("active", [(f"{name} {percent(value)}", "") for name, value in _active(told)]),
    ]


def _work(rank: RankView) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the model needs of the device, beside what the device can do."""
    work = rank.work
    flops, weights, kv = (work.flops_per_s, work.weight_bytes_per_s, work.kv_bytes_per_s) if work else (None, None, None)
    moved = None if weights is None or kv is None else weights + kv
    figures = [f"MFU {percent(work.mfu_pct if work else None)}", f"MBU {percent(work.mbu_pct if work else None)}"]
    return [("model", [(figure, "") for figure in (*figures, f"{_si(flops)}FLOP/s", f"{_si(moved)}B/s")])]


def _active(told: DeviceRecord) -> list[tuple[str, float | None]]:
    """GPM's where the device has them, beside what NVML calls utilization: the share of time in which any kernel ran."""
    return [("SM", told.sm_active), ("tensor", told.tensor_active), ("DRAM", told.dram_active), ("any", told.gpu_util)]


def _process(told: DeviceRecord, units: str) -> list[tuple[str, list[tuple[str, str]]]]:
    cores = UNAVAILABLE if told.cpu_limit is None else f"{told.cpu_limit:g}"
    return [
        ("CPU", [(f"{percent(told.cpu_percent)}", ""), (f"limit {cores} cores", "")]),
        ("RSS", [(f"{size(told.rss, units)}", ""), (f"limit {size(told.memory_limit, units)}", "")]),
    ]


def _si(value: float | None) -> str:
    """With the prefix of its unit: `1.2 T`."""
    if value is None:
        return f"{UNAVAILABLE} "
    limit, prefix = next((each for each in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= each[0]), (1.0, ""))
    return f"{value / limit:.{1 if value / limit < 9.95 and prefix else 0}f} {prefix}"


def _rate(value: float | None) -> str:
    return UNAVAILABLE if value is None else f"{value / _GB:.1f}"
