"""What other tools get: a Chrome trace that keeps its format's rules, CSV, Parquet."""

import csv
import json
import sys
from collections import Counter
from itertools import pairwise

import pytest
from profile_runs import Run

from profiles.chrome import PARTS, STEPS, export_chrome
from profiles.reader import Profile
from profiles.tables import TABLES, MissingPackage, export_tables
from telemetry.records import StepRecord


@pytest.fixture(scope="module")
def trace(run_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("trace") / "trace.json"
    with Profile(run_file) as profile:
        count = export_chrome(profile, out)
    events = json.loads(out.read_text())["traceEvents"]
    assert len(events) == count
    return events


def test_every_event_has_what_its_kind_requires(trace):
    needs = {"X": {"dur"}, "C": {"args"}, "M": {"args"}, "b": {"cat", "id"}, "e": {"cat", "id"}, "i": {"s"}}
    for event in trace:
        assert event.keys() >= {"ph", "name", "ts", "pid", "tid"} | needs[event["ph"]]
        assert event.get("dur", 0) >= 0
        if event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values())
    assert {event["ph"] for event in trace} == set(needs)


def test_ranks_are_processes_with_names_and_slices_that_do_not_overlap(trace):
    names = {e["pid"]: e["args"]["name"] for e in trace if e["name"] == "process_name"}
    assert names == {1: "deployment demo", 10: "rank 0 dp0 pp0 ep0 tp0 cpu", 11: "rank 1 dp0 pp0 ep0 tp1 cpu"}
    for pid in (10, 11):
        for tid in (STEPS, PARTS):
            slices = sorted((e["ts"], e["dur"]) for e in trace if (e["ph"], e["pid"], e["tid"]) == ("X", pid, tid))
            assert len(slices) >= 300
            assert all(ts + dur <= after + 1e-3 for (ts, dur), (after, _) in pairwise(slices))


def test_parts_fill_their_step(trace):
    total = Counter()
    for event in trace:
        if event["ph"] == "X" and event["pid"] == 10:
            total[event["tid"]] += event["dur"]
    assert total[PARTS] == pytest.approx(total[STEPS], rel=1e-6)
    assert {e["name"] for e in trace if e.get("tid") == PARTS and e["ph"] == "X"} == {"compute", "tp wait", "tp transfer", "host"}


def test_requests_open_and_close(trace):
    opened = Counter((e["id"], e["name"]) for e in trace if e["ph"] == "b")
    closed = Counter((e["id"], e["name"]) for e in trace if e["ph"] == "e")
    assert opened == closed
    assert len(opened) == 4 * 100


def steps():
    return [record for _, envelope in Run() for record in envelope.records if isinstance(record, StepRecord)]


def test_csv(run_file, tmp_path):
    with Profile(run_file) as profile:
        export_tables(profile, "csv", tmp_path / "steps.csv", "steps")
        written = export_tables(profile, "csv", tmp_path / "all", None)
    with (tmp_path / "steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(r["rank"]), int(r["step"]), int(r["tp_wait_ns"])) for r in rows] == [
        (s.rank, s.step, s.axes["tp"].wait_ns) for s in steps()
    ]
    assert rows[0]["deployment"] == "demo"
    assert {path.stem for path in written} == TABLES.keys()


def test_parquet(run_file, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with Profile(run_file) as profile:
        export_tables(profile, "parquet", tmp_path / "steps.parquet", "steps")
        written = export_tables(profile, "parquet", tmp_path / "all", None)
    table = parquet.read_table(tmp_path / "steps.parquet")
    assert table.column("compute_ns").to_pylist() == [step.compute_ns for step in steps()]
    assert str(table.schema.field("compute_ns").type) == "int64"
    devices = parquet.read_table(tmp_path / "all" / "devices.parquet")
    assert devices.column("gpu_util").null_count == devices.num_rows > 0
    assert len(written) == len(TABLES)


def test_parquet_without_pyarrow_says_what_to_install(run_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with Profile(run_file) as profile, pytest.raises(MissingPackage, match=r"shardscope\[parquet\]"):
        export_tables(profile, "parquet", tmp_path / "x.parquet", "steps")
