"""A recording as flat tables, one for each kind of record: for CSV, Parquet, and whatever reads those."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from profiles.container import KEYFRAMES
from profiles.reader import Profile
from telemetry.codec import CodecError, decode_envelope
from telemetry.records import (
    DeploymentRecord,
    DeviceRecord,
    EngineRecord,
    EventRecord,
    RankMemory,
    Record,
    RequestRecord,
    StepRecord,
)

TABLES: dict[str, type[Record]] = {
    "steps": StepRecord,
    "requests": RequestRecord,
    "engine": EngineRecord,
    "devices": DeviceRecord,
    "memory": RankMemory,
    "events": EventRecord,
    "deployments": DeploymentRecord,
}
_ROWS = 20_000  # in memory at a time

Row = dict[str, Any]


class MissingPackage(Exception):
    """An extra is not installed; the message says how to install it."""


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
    """The table's rows: the record's fields, and `arrived_ns` and `deployment` first. Axes become columns, lists JSON."""
    kind = TABLES[table]
    for arrived_ns, deployment, record in records(profile):
        if isinstance(record, kind):
            fields = {"arrived_ns": arrived_ns, "deployment": deployment} | msgspec.structs.asdict(record)
            yield {name: _flat(value) for name, value in _with_axes(fields)}


def export_tables(profile: Profile, form: str, out: Path, table: str | None) -> list[Path]:
    """Write one table to the file `out`, or, without `table`, each that has rows into the directory `out`.

    `form` is csv or parquet. Raises OSError, and MissingPackage.
    """
    write = _write_csv if form == "csv" else _write_parquet
    if table is not None:
        write(out, _columns(profile, table), rows(profile, table))
        return [out]
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name in TABLES:
        if columns := _columns(profile, name):
            written.append(out / f"{name}.{form}")
            write(written[-1], columns, rows(profile, name))
    return written


def _columns(profile: Profile, table: str) -> dict[str, type]:
    """Every column that any row has, and what its values are; axes that come later come last. Empty: no row."""
    columns: dict[str, type] = {}
    for row in rows(profile, table):
        for name, value in row.items():
            kind = str if value is None else type(value)
            known = columns.setdefault(name, kind)
            if value is not None and known is not kind:
                columns[name] = kind if known is str else float  # it was empty so far; or whole numbers and others
    return columns


def _with_axes(fields: Row) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if name != "axes":
            yield name, value
            continue
        for axis, time in value.items():
            for field, amount in msgspec.structs.asdict(time).items():
                yield f"{axis}_{field}", amount


def _flat(value: Any) -> Any:
    return json.dumps(msgspec.to_builtins(value)) if isinstance(value, list | dict | tuple) else value


def _write_csv(path: Path, columns: dict[str, type], table: Iterator[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(table)


def _write_parquet(path: Path, columns: dict[str, type], table: Iterator[Row]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingPackage("Parquet needs pyarrow: pip install 'shardscope[parquet]', or export as csv") from None
    types = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    with parquet.ParquetWriter(path, schema) as writer:
        while part := list(islice(table, _ROWS)):
            arrays = [pyarrow.array([row.get(name) for row in part], types[kind]) for name, kind in columns.items()]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
