"""Where a recording comes from: versions, host, devices, model, layout, flags, and what its clock reads as wall time."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata, util
from pathlib import Path
from typing import Any

import msgspec
import pynvml
from msgspec import Struct

from telemetry.records import SCHEMA_VERSION, DeploymentRecord

_SECRET = re.compile(r"key|token|secret|passw|prompt|auth", re.IGNORECASE)
_CRC = "crc32"


class Provenance(Struct, frozen=True):
    """Of one recording. Empty: not known."""

    deployment: str
    schema: int = SCHEMA_VERSION
    app: str = ""  # our version
    commit: str = ""  # of our source
    python: str = ""
    torch: str = ""
    cuda: str = ""  # that torch was built for
    driver: str = ""
    host: str = ""
    cpu: str = ""
    cores: int = 0
    devices: list[str] = []
    model: str = ""
    config_hash: str = ""  # of the model's config.json, SHA-256, 16 digits
    layout: dict[str, int] = {}
    device: str = ""  # cpu, cuda
    dtype: str = ""
    emulated: bool = False
    settings: dict[str, Any] = {}  # what else the deployment was given
    argv: list[str] = []  # the recorder's, secrets left out
    wall_ns: int = 0  # unix time when the monotonic clock read `monotonic_ns`
    monotonic_ns: int = 0
    window_s: float = 10.0  # over which figures were shown live

    def pairs(self) -> dict[str, str]:
        """For an MCAP metadata record, which holds texts: other values as JSON, and a checksum, for MCAP has none there."""
        pairs = {name: value if isinstance(value, str) else json.dumps(value) for name, value in _fields(self).items()}
        return pairs | {_CRC: _checksum(pairs)}

    @classmethod
    def of_pairs(cls, pairs: Mapping[str, str]) -> Provenance | None:
        """The opposite of `pairs`; `None` when the checksum says otherwise."""
        known = {name: value for name, value in pairs.items() if name != _CRC}
        if pairs.get(_CRC) != _checksum(known):
            return None
        texts = {field.name for field in msgspec.structs.fields(cls) if field.type is str}
        try:
            values = {name: value if name in texts else json.loads(value) for name, value in known.items()}
            return msgspec.convert(values, cls)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            return None


def gather(record: DeploymentRecord, settings: Mapping[str, Any], window_s: float) -> Provenance:
    """All that can be learned here and now of a deployment's recording. Takes some milliseconds; blocks."""
    driver, devices = _gpus() if record.device != "cpu" else ("", [])
    cpu, cores = _cpu()
    torch, cuda = _torch()
    return Provenance(
        deployment=record.deployment,
        app=_version("shardscope"),
        commit=_commit(),
        python=platform.python_version(),
        torch=torch,
        cuda=cuda,
        driver=driver,
        host=platform.node(),
        cpu=cpu,
        cores=cores,
        devices=devices,
        model=record.model,
        config_hash=_config_hash(Path(record.model)),
        layout=dict(record.layout),
        device=record.device,
        dtype=record.dtype,
        emulated=record.emulated,
        settings={name: _said(name, value) for name, value in settings.items()},
        argv=redacted(sys.argv),
        wall_ns=time.time_ns(),
        monotonic_ns=time.perf_counter_ns(),
        window_s=window_s,
    )


def _said(name: str, value: Any) -> Any:
    """A number is no secret, whatever it is called."""
    return "(left out)" if _SECRET.search(name) and isinstance(value, str | bytes | list | dict) else value


def redacted(argv: Sequence[str]) -> list[str]:
    """A command line without what its flags keep secret: values of keys, tokens, passwords, prompts."""
    words: list[str] = []
    secret = False
    for word in argv:
        flag, equals, _ = word.partition("=")
        is_flag = word.startswith("-")
        if secret and not is_flag:
            words.append("(left out)")
        elif is_flag and equals and _SECRET.search(flag):
            words.append(f"{flag}=(left out)")
        else:
            words.append(word)
        secret = is_flag and not equals and _SECRET.search(flag) is not None
    return words


def _fields(provenance: Provenance) -> dict[str, Any]:
    return msgspec.structs.asdict(provenance)


def _checksum(pairs: Mapping[str, str]) -> str:
    return f"{zlib.crc32(json.dumps(sorted(pairs.items())).encode()):08x}"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=2, check=True).stdout.strip()
    return ""


def _torch() -> tuple[str, str]:
    """(version, CUDA it was built for), from its files: importing it takes a second and hundreds of megabytes."""
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return "", ""
    with suppress(OSError):
        found = re.search(r"^cuda\b[^=]*=\s*'([^']+)'", (Path(spec.origin).parent / "version.py").read_text(), re.MULTILINE)
        return _version("torch"), found.group(1) if found else ""
    return _version("torch"), ""


def _cpu() -> tuple[str, int]:
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        return found.group(1) if found else platform.machine(), len(os.sched_getaffinity(0))
    return platform.machine(), os.cpu_count() or 0


def _gpus() -> tuple[str, list[str]]:
    """(driver's version, a name and a digest of the unique id for each)."""
    try:
        pynvml.nvmlInit()
        try:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            driver = str(pynvml.nvmlSystemGetDriverVersion())
            return driver, [f"{pynvml.nvmlDeviceGetName(h)} {_digest(pynvml.nvmlDeviceGetUUID(h))}" for h in handles]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return "", []


def _config_hash(model: Path) -> str:
    with suppress(OSError):
        return hashlib.sha256((model / "config.json").read_bytes()).hexdigest()[:16]
    return ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
