"""The second screen as pure lines: one rank at any size, in any state, and what is said of what is not known."""

import pytest
from msgspec.structs import replace
from scenes import FAILED, FEED, LOADING, MOMENTS, STEADY, STRAGGLER, UP_TO_8_RANKS, alone, ranks_changed, scene

from telemetry.records import DeviceRecord
from telemetry.snapshot import MemoryView
from tui import keys
from tui.logs import LogLine
from tui.view.line import text
from tui.view.options import Options
from tui.view.rank import rank_detail

KEYS = keys.RANK + keys.VIEW + keys.APP
LOG = [LogLine("rank-3", f"line {i}") for i in range(40)]


def drawn(snapshot, rank=0, columns=119, rows=40, log=()):
    frame = rank_detail(snapshot, FEED, Options(rank=rank), KEYS, log, columns, rows)
    return [text(line) for line in (*frame.head, *frame.body, *frame.panels, *frame.foot)]


def row(lines, name):
    """What stands after a name, wherever in the line."""
    return next(line.partition(f" {name} ")[2] for line in lines if f" {name} " in line).strip()


@pytest.mark.parametrize("layout", UP_TO_8_RANKS)
def test_every_figure_has_its_place(layout):
    for columns, rows in ((79, 24), (119, 40), (199, 60)):
        page = "\n".join(drawn(scene(STRAGGLER, layout), 0, columns, rows))
        for word in (
            "rank 0",
            "util",
            "compute",
            "stage",
            "host",
            "weights",
            "KV",
            "peak used",
            "power",
            "throttle",
            "last step",
        ):
            assert word in page


def test_every_size_draws_within_its_columns():
    for snapshot in (None, replace(scene(), deployments=()), *(scene(at, "ep2tp2pp2") for at in MOMENTS)):
        for columns in (1, 2, 5, 19, 40, 69, 70, 119, 300):
            for rows in (1, 3, 6, 12, 24, 100):
                frame = rank_detail(snapshot, FEED, Options(rank=3), KEYS, LOG, columns, rows)
                assert len(frame.head) + len(frame.panels) + len(frame.foot) <= rows
                for line in (*frame.head, *frame.body, *frame.panels, *frame.foot):
                    assert len(text(line)) <= columns


def test_what_nobody_tells_is_dashes_and_zero_is_zero():
    lines = drawn(scene(LOADING))
    for name in ("compute", "KV", "peak used", "throttle"):
        assert row(lines, name).startswith("--")
    assert row(lines, "power") == "-- of -- W  -- °C"
    assert row(lines, "faults") == "Xid --  ECC --  corrected --"
    silent = DeviceRecord(0, 1, 0, power_w=0.0, xid=0, throttle=[], ecc_uncorrected=0, ecc_corrected=0, pcie_rx=0.0)
    lines = drawn(ranks_changed(scene(), lambda rank: replace(rank, device=silent)))
    assert row(lines, "power") == "0 of -- W  -- °C"
    assert row(lines, "faults") == "Xid none  ECC 0  corrected 0"
    assert row(lines, "throttle") == "none"
    assert row(lines, "PCIe") == "in 0.0  out -- GB/s"


def test_the_parts_of_a_step_are_told_by_axis_with_their_wait():
    lines = drawn(scene(STRAGGLER, "ep2tp2pp2"), 2)
    [rank] = [rank for rank in scene(STRAGGLER, "ep2tp2pp2").deployments[0].ranks if rank.info.rank == 2]
    parts = [rank.compute_ms, rank.recv_wait_ms, rank.gap_ms, *(axis.wait_ms + axis.transfer_ms for axis in rank.axes.values())]
    share = round(100 * (rank.axes["tp"].wait_ms + rank.axes["tp"].transfer_ms) / sum(parts))
    tp = next(line for line in lines if " tp   " in line)
    assert f"wait {rank.axes['tp'].wait_ms:.1f}" in tp
    assert f"{share}%" in tp
    assert "▒" in tp


def test_others_that_wait_are_told_on_the_rank_they_wait_for():
    assert any("! others wait: tp 4.5, ep 4.5 ms" in line for line in drawn(scene(STRAGGLER, "ep2tp2pp2"), 3))
    assert not any("others wait" in line for line in drawn(scene(STRAGGLER, "ep2tp2pp2"), 1))


def test_a_throttled_gpu_with_faults_is_marked():
    bad = DeviceRecord(0, 1, 0, throttle=["SW thermal slowdown", "HW power brake"], xid=79, ecc_uncorrected=3)
    lines = drawn(ranks_changed(scene(), lambda rank: replace(rank, device=bad)), 0, 199, 60)
    assert row(lines, "throttle") == "SW thermal slowdown, HW power brake!"
    assert row(lines, "faults") == "Xid 79!  ECC 3!  corrected --"


def test_a_cpu_has_no_rows_of_a_gpu():
    told = DeviceRecord(0, 1, 0, cpu_percent=97.0, rss=3 << 30, cpu_limit=2.0, memory_limit=8 << 30)

    def on_cpu(rank):
        return replace(rank, info=replace(rank.info, device="cpu"), device=told)

    lines = drawn(ranks_changed(scene(), on_cpu))
    assert row(lines, "CPU") == "97%  limit 2 cores"
    assert row(lines, "RSS") == "3.0Gi  limit 8.0Gi"
    assert not any(word in line for line in lines for word in ("throttle", "NVLink", "watt"))


def test_memory_parts_without_a_total_still_have_bars():
    memory = MemoryView(weights=400 << 20, kv=200 << 20, used=700 << 20)
    lines = drawn(ranks_changed(scene(), lambda rank: replace(rank, memory=memory)))
    assert "memory 700Mi of --" in "\n".join(lines)
    assert "█" in row(lines, "weights")


def test_experts_are_called_by_their_numbers_in_the_model():
    lines = drawn(scene(STEADY, "ep2tp2pp2"), 3)
    assert row(lines, "experts").startswith("64 here")
    hottest = int(row(lines, "experts").partition("hottest e")[2].split()[0])
    assert 64 <= hottest < 128
    assert not any(" experts " in line for line in drawn(replace(scene(), deployments=scene().deployments[1:])))


def test_the_newest_of_its_log_and_of_its_events_fill_the_bottom():
    lines = drawn(scene(STRAGGLER, "ep2tp2pp2"), 3, 119, 44, LOG)
    assert lines[-2].strip() == "line 39"
    assert any("r3 computes 1.3x" in line for line in lines)
    assert not any("r3 computes 1.3x" in line for line in drawn(scene(STRAGGLER, "ep2tp2pp2"), 2)[5:])


def test_where_a_minute_has_no_room_the_title_says_what_is_shown():
    title = next(line for line in drawn(scene(), columns=79, rows=24) if line.startswith("── util"))
    assert " 33 s ──" in title
    assert any(" 60 s ──" in line for line in drawn(scene(), columns=199, rows=60))


def test_a_rank_that_is_gone_is_the_first_one_and_none_is_said():
    assert any(line.startswith("── rank 0 ") for line in drawn(scene(), 99))
    assert any("no ranks yet" in line for line in drawn(alone(scene(), ranks=())))


def test_a_dead_rank_says_so():
    assert any(line.startswith("── rank 1 ") and "× DEAD" in line for line in drawn(scene(FAILED), 1))
