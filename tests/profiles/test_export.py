"""What other tools get: a Chrome trace that keeps its format's rules, CSV, Parquet."""

import csv
import json
import math
import sys
from collections import Counter
from itertools import pairwise

import pytest
from msgspec.structs import asdict
from profile_runs import Run, S, T

from profiles.chrome import PARTS, PHASES, STEPS, export_chrome, trace_events
from profiles.reader import Profile
from profiles.tables import TABLES, MissingPackage, export_tables
from telemetry.records import CollectiveRecord, ExpertRecord, RankMemory, RequestRecord, StepRecord


@pytest.fixture(scope="module")
def trace(run_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("trace") / "trace.json"
    with Profile(run_file) as profile:
        count = export_chrome(profile, out)
    whole = json.loads(out.read_text())
    assert len(whole["traceEvents"]) == count
    assert whole["displayTimeUnit"] in ("ms", "ns")
    return whole["traceEvents"]


def test_every_event_has_what_its_kind_requires(trace):
    """The rules of the Trace Event Format, by which Perfetto and chrome://tracing read the file."""
    needs = {"X": {"dur"}, "C": {"args"}, "M": {"args"}, "b": {"cat", "id"}, "e": {"cat", "id"}, "i": {"s"}}
    for event in trace:
        assert event.keys() >= {"ph", "name", "ts", "pid", "tid"} | needs[event["ph"]]
        assert isinstance(event["name"], str)
        assert all(isinstance(event[key], int) for key in ("pid", "tid"))
        assert all(math.isfinite(event.get(key, 0)) and event.get(key, 0) >= 0 for key in ("ts", "dur"))
        if event["ph"] == "C":
            assert event["args"]
            assert all(isinstance(value, int | float) and math.isfinite(value) for value in event["args"].values())
        if event["ph"] == "i":
            assert event["s"] in ("g", "p", "t")
    assert {event["ph"] for event in trace} == set(needs)
    threads = {(e["pid"], e["tid"]) for e in trace if e["name"] == "thread_name"}
    assert threads == {(pid, tid) for pid in (10, 11) for tid in (STEPS, PHASES, PARTS)}
    assert {(e["pid"], e["tid"]) for e in trace if e["ph"] == "X"} == threads


def test_ranks_are_processes_with_names_and_slices_that_do_not_overlap(trace):
    names = {e["pid"]: e["args"]["name"] for e in trace if e["name"] == "process_name"}
    assert names == {1: "deployment demo", 10: "rank 0 dp0 pp0 ep0 tp0 cpu", 11: "rank 1 dp0 pp0 ep0 tp1 cpu"}
    for pid in (10, 11):
        for tid in (STEPS, PHASES, PARTS):
            slices = sorted(nanoseconds(e) for e in trace if (e["ph"], e["pid"], e["tid"]) == ("X", pid, tid))
            assert len(slices) >= 300
            assert all(end <= after for (_, end), (after, _) in pairwise(slices))


def test_parts_fill_their_step(trace):
    total = Counter()
    for event in trace:
        if event["ph"] == "X" and event["pid"] == 10:
            total[event["tid"]] += event["dur"]
    assert total[PARTS] == pytest.approx(total[STEPS], rel=1e-6)
    assert {e["name"] for e in trace if e.get("tid") == PARTS and e["ph"] == "X"} == {"compute", "tp wait", "tp transfer", "host"}


def test_phases_stand_where_they_were(trace):
    """At the place in their step that the record says, and within it."""
    found = sorted((e["ts"], e["dur"], e["name"]) for e in trace if (e["ph"], e["pid"], e.get("tid")) == ("X", 10, PHASES))
    offsets = [(step.start_ns - T, phase) for step in recorded(StepRecord) if step.rank == 0 for phase in step.phases]
    assert found == sorted(((at + p.offset_ns) / 1e3, p.duration_ns / 1e3, p.name) for at, p in offsets)
    steps = {e["ts"]: e["dur"] for e in trace if (e["ph"], e["pid"], e.get("tid")) == ("X", 10, STEPS)}
    assert all(any(ts <= at and at + dur <= ts + steps[ts] + 1e-3 for ts in steps) for at, dur, _ in found[:100])


def test_counters_tell_what_records_do(trace, moe_file):
    counters = {(e["pid"], e["name"], e["ts"]): e["args"] for e in trace if e["ph"] == "C"}
    [first] = [r for r in recorded(CollectiveRecord) if (r.rank, r.size_class, r.end_ns) == (1, 20, T + S)]
    at = (first.start_ns - T) / 1e3
    assert counters[11, "tp all_reduce <= 1 MiB us a call", at] == {"wait": 150.0, "transfer": 400.0}
    busbw = 2 * (2 - 1) / 2 * (1 << 19) / 400e-6 / 1e9  # nccl-tests: 2(n-1)/n of S/t
    assert counters[11, "tp all_reduce <= 1 MiB busbw GB/s", at]["busbw"] == pytest.approx(busbw)
    memory = counters[10, "memory MiB", 1e6]
    assert memory == {"weights": 1.0, "kv": 0.25, "activations": 0.0625, "workspace": 0.03125, "other": 0.5}
    assert {name for _, name, _ in counters} >= {"replica 0 tokens/s", "tokens in a step", "CPU %", "KV blocks"}
    first = next(step for step in steps() if step.rank == 0)
    at = (first.start_ns - T) / 1e3
    assert counters[10, "model GFLOP/s", at] == {"needed": pytest.approx(2e10 / first.wall_ns)}
    assert counters[10, "model GB/s", at] == {"weights": 18e6 / first.wall_ns, "KV": 2e6 / first.wall_ns}
    with Profile(moe_file) as profile:
        rates = [e["args"]["all layers"] for e in trace_events(profile) if e["name"] == "tokens to experts /s"]
    assert rates == [sum(map(sum, r.tokens)) for r in recorded(ExpertRecord, experts=(2, 4))]


def nanoseconds(event):
    """(start, end) of a complete event, whole, as Perfetto keeps them."""
    start = round(1e3 * event["ts"])
    return start, start + round(1e3 * event["dur"])


def nested(trace):
    """Follow the asynchronous slices as a reader does, by time and else in the file's order: each end closes what opened last."""
    opened = {}
    for event in sorted((e for e in trace if e["ph"] in "be"), key=lambda e: e["ts"]):
        stack = opened.setdefault((event["pid"], event["cat"], event["id"]), [])
        if event["ph"] == "b":
            stack.append(event["name"])
        else:
            assert stack.pop() == event["name"]
    assert not any(opened.values())
    return len(opened)


def test_requests_open_and_close(trace):
    assert nested(trace) == 100
    opened = Counter((e["id"], e["name"]) for e in trace if e["ph"] == "b")
    closed = Counter((e["id"], e["name"]) for e in trace if e["ph"] == "e")
    assert opened == closed
    assert len(opened) == 4 * 100


def recorded(kind, **options):
    return [record for _, envelope in Run(**options) for record in envelope.records if isinstance(record, kind)]


def steps():
    return recorded(StepRecord)


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_tables_hold_every_record(moe_file, tmp_path):
    with Profile(moe_file) as profile:
        written = export_tables(profile, "csv", tmp_path, None)
    assert {path.stem for path in written} == TABLES.keys()
    rows = {path.stem: table(path) for path in written}
    for name, kind in (("memory", RankMemory), ("collectives", CollectiveRecord), ("requests", RequestRecord)):
        records = recorded(kind, experts=(2, 4))
        assert len(rows[name]) == len(records)
        for row, record in zip(rows[name], records, strict=True):
            plain = {field: value for field, value in asdict(record).items() if isinstance(value, int | str)}
            assert row.items() >= {field: str(value) for field, value in plain.items()}.items()
    assert json.loads(rows["collectives"][0]["waits"]) == {
        str(bucket): calls for bucket, calls in recorded(CollectiveRecord, experts=(2, 4))[0].waits.items()
    }
    phases = [
        (s.rank, s.step, p.name, s.start_ns + p.offset_ns, p.duration_ns)
        for s in recorded(StepRecord, experts=(2, 4))
        for p in s.phases
    ]
    assert [
        (int(r["rank"]), int(r["step"]), r["phase"], int(r["start_ns"]), int(r["duration_ns"])) for r in rows["phases"]
    ] == phases
    counts = {
        (r.end_ns, layer, expert): tokens
        for r in recorded(ExpertRecord, experts=(2, 4))
        for layer, row in zip(r.layers, r.tokens, strict=True)
        for expert, tokens in zip(r.experts, row, strict=True)
    }
    assert {(int(r["end_ns"]), int(r["layer"]), int(r["expert"])): int(r["tokens"]) for r in rows["experts"]} == counts
    for request in recorded(RequestRecord, experts=(2, 4)):
        ready = [int(r["ready_ns"]) for r in rows["tokens"] if r["request"] == request.request]
        assert len(ready) == request.output_tokens - 1
        assert ready[-1] == request.first_token_ns + sum(request.gaps_ns)


def test_csv(run_file, tmp_path):
    with Profile(run_file) as profile:
        export_tables(profile, "csv", tmp_path / "steps.csv", "steps")
    rows = table(tmp_path / "steps.csv")
    assert [(int(r["rank"]), int(r["step"]), int(r["tp_wait_ns"])) for r in rows] == [
        (s.rank, s.step, s.axes["tp"].wait_ns) for s in steps()
    ]
    assert rows[0]["deployment"] == "demo"
    assert rows[0]["flops"] == str(2 * 10**10)


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
    assert str(devices.schema.field("gpu_util").type) == "double"  # by its schema, though every value is missing
    assert {path.stem for path in written} == TABLES.keys() - {"experts"}  # a dense model has none


def test_parquet_without_pyarrow_says_what_to_install(run_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with Profile(run_file) as profile, pytest.raises(MissingPackage, match=r"shardscope\[parquet\]"):
        export_tables(profile, "parquet", tmp_path / "x.parquet", "steps")


def test_records_that_make_no_sense_are_exported_all_the_same(tmp_path):
    """What a hostile file may say within the schema: no crash, no number that JSON has not, no memory for a size class."""
    end = T + S
    hostile = [
        CollectiveRecord(0, 1, T, end, "tp", "no such op", 1 << 62, 0, 0, 3, 5, 7, 9, {1 << 40: 3}, {-5: 3}),
        CollectiveRecord(9999, 1, end, T, "", "barrier", -7, -1, 0, 1, 0, 0, 1),
        ExpertRecord(0, 1, end, T, [1, 2, 3], [7], [[1, 2, 3], []]),
        ExpertRecord(-1, 1, T, end, [], [], [[]]),
        RankMemory(0, 1, 0, 0, None, None, None, time_ns=-(1 << 61)),
        RequestRecord("demo", 1, "r", 0, end, T, T - S, T, 0, 0, 0, "", [0, 1 << 48]),
    ]

    class Hostile(Run):
        def __iter__(self):
            yield from ((end, self.envelope("rank:0", record)) for record in hostile)
            yield from Run(seconds=2)

    Hostile().record(tmp_path / "hostile.mcap")
    with Profile(tmp_path / "hostile.mcap") as profile:
        export_chrome(profile, tmp_path / "trace.json")
        nested(json.loads((tmp_path / "trace.json").read_text(), parse_constant=pytest.fail)["traceEvents"])
        export_tables(profile, "csv", tmp_path / "csv", None)
        export_tables(profile, "parquet", tmp_path / "parquet", None)
    assert len(table(tmp_path / "csv" / "experts.csv")) == 1
