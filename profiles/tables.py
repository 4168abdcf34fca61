"""A recording as flat tables, one for each kind of record: for CSV, Parquet, and whatever reads those.

What a record holds many of gets a table of its own: phases of steps, gaps between a request's tokens, tokens by expert.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType, UnionType
from typing import Any, NamedTuple, Protocol, Self, Union, get_args, get_origin, get_type_hints

import msgspec

from profiles.container import KEYFRAMES
from profiles.reader import Profile
from telemetry.codec import CodecError, decode_envelope
from telemetry.records import (
    AxisTime,
    CollectiveRecord,
    DeploymentRecord,
    DeviceRecord,
    EngineRecord,
    EventRecord,
    ExpertRecord,
    RankMemory,
    Record,
    RequestRecord,
    StepRecord,
)

_ROWS = 20_000  # of Parquet, in memory at a time

Row = dict[str, Any]
Columns = dict[str, type]


class MissingPackage(Exception):
    """An extra is not installed; the message says how to install it."""


class Table(NamedTuple):
    """`rows` makes the rows of a record of the kind; `columns` are theirs but for the axes of steps, which a recording tells."""

    kind: type[Record]
    columns: Columns
    rows: Callable[[Any], Iterable[Row]]


def records(profile: Profile) -> Iterator[tuple[int, str, Record]]:
    """(arrived_ns, deployment, record) of everything that can be read, in order."""
    for entry in profile.entries():
        if entry.topic == KEYFRAMES:
            continue
        try:
            envelope = decode_envelope(entry.data)
        except CodecError:
            continue
        for record in envelope.records:
            yield entry.arrived_ns, envelope.deployment, record


def rows(profile: Profile, table: str) -> Iterator[Row]:
    """The table's rows, `arrived_ns` and `deployment` first. Axes become columns, lists JSON."""
    kind, make = TABLES[table].kind, TABLES[table].rows
    for arrived_ns, deployment, record in records(profile):
        if type(record) is kind:
            for row in make(record):
                yield {"arrived_ns": arrived_ns, "deployment": deployment} | row


def export_tables(profile: Profile, form: str, out: Path, only: str | None) -> list[Path]:
    """Write the table `only` to the file `out`, or, without one, each that has rows into the directory `out`.

    `form` is csv or parquet. Reads the recording twice, and holds little of it at a time. Raises OSError, and MissingPackage.
    """
    begin: Callable[[Path, Columns], _File] = _CsvTable if form == "csv" else _parquet_table()
    if only is None:
        out.mkdir(parents=True, exist_ok=True)
    names, axes = _present(profile)
    files = {name: out / f"{name}.{form}" for name in TABLES if name in names} if only is None else {only: out}
    with ExitStack() as open_files:
        tables = [(TABLES[name], open_files.enter_context(begin(path, _columns(name, axes)))) for name, path in files.items()]
        for arrived_ns, deployment, record in records(profile):
            for table, file in tables:
                if type(record) is table.kind:
                    for row in table.rows(record):
                        file.write({"arrived_ns": arrived_ns, "deployment": deployment} | row)
    return list(files.values())


def _present(profile: Profile) -> tuple[set[str], list[str]]:
    """(the tables that have rows, the axes that steps tell of)."""
    names: set[str] = set()
    axes: dict[str, None] = {}
    for _, _, record in records(profile):
        if isinstance(record, StepRecord):
            axes |= dict.fromkeys(record.axes)
        for name in _TABLES_OF[type(record)]:
            if name not in names and next(iter(TABLES[name].rows(record)), None) is not None:
                names.add(name)
    return names, sorted(axes)


def _columns(name: str, axes: list[str]) -> Columns:
    more = {f"{axis}_{part}": int for axis in axes for part in AxisTime.__struct_fields__} if name == "steps" else {}
    return {"arrived_ns": int, "deployment": str} | TABLES[name].columns | more


def _step(record: StepRecord) -> Iterator[Row]:
    fields = {name: value for name, value in _flat(record).items() if name not in ("axes", "phases")}
    yield fields | {
        f"{axis}_{part}": amount for axis, time in record.axes.items() for part, amount in msgspec.structs.asdict(time).items()
    }


def _phases(record: StepRecord) -> Iterator[Row]:
    whose = {"rank": record.rank, "generation": record.generation, "step": record.step, "slot": record.slot}
    for phase in record.phases:
        start_ns = record.start_ns + phase.offset_ns
        yield whose | {"phase": phase.name, "start_ns": start_ns, "duration_ns": phase.duration_ns}


def _request(record: RequestRecord) -> Iterator[Row]:
    yield {name: value for name, value in _flat(record).items() if name != "gaps_ns"}


def _tokens(record: RequestRecord) -> Iterator[Row]:
    at_ns = record.first_token_ns or 0
    for number, gap_ns in enumerate(record.gaps_ns, 2):
        at_ns += gap_ns
        yield {"request": record.request, "replica": record.replica, "token": number, "ready_ns": at_ns, "gap_ns": gap_ns}


def _experts(record: ExpertRecord) -> Iterator[Row]:
    whose = {
        "rank": record.rank,
        "generation": record.generation,
        "start_ns": record.start_ns,
        "end_ns": record.end_ns,
    }
    for layer, counts in zip(record.layers, record.tokens, strict=False):
        for expert, tokens in zip(record.experts, counts, strict=False):
            yield whose | {"layer": layer, "expert": expert, "tokens": tokens}


def _flat(record: Record) -> Row:
    return {name: _cell(value) for name, value in msgspec.structs.asdict(record).items()}


def _cell(value: Any) -> Any:
    nested = isinstance(value, list | dict | tuple | msgspec.Struct)
    return json.dumps(msgspec.to_builtins(value, str_keys=True)) if nested else value


def _fields(kind: type[Record], *left_out: str) -> Columns:
    """What the values of each column are, by the record's own annotations: the same in every recording, empty or not."""
    hints = get_type_hints(kind)
    return {name: _kind(hints[name]) for name in kind.__struct_fields__ if name not in left_out}


def _kind(hint: Any) -> type:
    if get_origin(hint) in (Union, UnionType):
        return next(_kind(each) for each in get_args(hint) if each is not type(None))
    return hint if hint in (int, float, bool) else str


def _plain(kind: type[Record]) -> Table:
    return Table(kind, _fields(kind), lambda record: (_flat(record),))


_OF_RANK: Columns = {"rank": int, "generation": int}

TABLES: dict[str, Table] = {
    "steps": Table(StepRecord, _fields(StepRecord, "axes", "phases"), _step),
    "phases": Table(
        StepRecord, _OF_RANK | {"step": int, "slot": int, "phase": str, "start_ns": int, "duration_ns": int}, _phases
    ),
    "collectives": _plain(CollectiveRecord),
    "experts": Table(
        ExpertRecord, _OF_RANK | {"start_ns": int, "end_ns": int, "layer": int, "expert": int, "tokens": int}, _experts
    ),
    "requests": Table(RequestRecord, _fields(RequestRecord, "gaps_ns"), _request),
    "tokens": Table(RequestRecord, {"request": str, "replica": int, "token": int, "ready_ns": int, "gap_ns": int}, _tokens),
    "engine": _plain(EngineRecord),
    "memory": _plain(RankMemory),
    "devices": _plain(DeviceRecord),
    "events": _plain(EventRecord),
    "deployments": _plain(DeploymentRecord),
}
_TABLES_OF = {about.kind: [name for name, other in TABLES.items() if other.kind is about.kind] for about in TABLES.values()}


class _File(Protocol):
    """Of one table; closed when its `with` ends."""

    def write(self, row: Row) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class _CsvTable:
    def __init__(self, path: Path, columns: Columns) -> None:
        self._file = path.open("w", newline="")
        self._writer = csv.DictWriter(self._file, columns)
        self._writer.writeheader()

    def write(self, row: Row) -> None:
        self._writer.writerow(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def _parquet_table() -> Callable[[Path, Columns], _ParquetTable]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingPackage("Parquet needs pyarrow: pip install 'shardscope[parquet]', or export as csv") from None
    return lambda path, columns: _ParquetTable(pyarrow, path, columns)


@dataclass
class _ParquetTable:
    arrow: Any  # the package
    path: Path
    columns: Columns
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        arrow = self.arrow
        types = {int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_(), str: arrow.string()}
        self._schema = arrow.schema([(name, types[kind]) for name, kind in self.columns.items()])
        self._writer = arrow.parquet.ParquetWriter(self.path, self._schema)

    def write(self, row: Row) -> None:
        self.rows.append(row)
        if len(self.rows) >= _ROWS:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self.rows:
            self._writer.write_table(self.arrow.Table.from_pylist(self.rows, self._schema))
        self.rows = []
