"""What this process may use of the host: the limits of its control group and of every group above it, v2 or v1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_UNLIMITED = 1 << 60  # v1 writes "no limit" as a page-aligned number near 2^63


class Cgroup:
    """The control group of this process; `root` is where the file systems "/sys" and "/proc" hang."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._mount = root / "sys/fs/cgroup"
        self._paths: dict[str, str] = {}  # by v1 controller; "" is v2
        try:
            lines = (root / "proc/self/cgroup").read_text().splitlines()
        except OSError:
            lines = []
        for line in lines:
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                self._paths[controller] = path

    def memory_limit(self) -> int | None:
        """Bytes that the group may hold; `None`: as much as the host has."""
        limits = [limit for directory in self._directories("memory") if (limit := _limit(directory)) is not None]
        return min(limits, default=None)

    def memory_total(self) -> int:
        """Bytes that the group may hold if nobody else held any."""
        host = 1024 * _entry(self._root / "proc/meminfo", "MemTotal:")
        limit = self.memory_limit()
        return host if limit is None else min(host, limit)

    def memory_available(self) -> int:
        """Bytes that this process could still take: what is left of every limit and of the host, with reclaimable file cache."""
        left = [1024 * _entry(self._root / "proc/meminfo", "MemAvailable:")]
        for directory in self._directories("memory"):
            limit = _limit(directory)
            used = _number(directory / "memory.current")
            if used is None:
                used = _number(directory / "memory.usage_in_bytes")
            if limit is not None and used is not None:
                stat = directory / "memory.stat"
                left.append(max(0, limit - used + (_entry(stat, "total_inactive_file") or _entry(stat, "inactive_file"))))
        return min(left)

    def cpu_quota(self) -> float | None:
        """Cores' worth of time that the group gets; `None`: no quota."""
        quotas = []
        for directory in self._directories("cpu"):
            words = _text(directory / "cpu.max").split()
            if not words:
                words = [_text(directory / "cpu.cfs_quota_us"), _text(directory / "cpu.cfs_period_us")]
            if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]) > 0:
                quotas.append(int(words[0]) / int(words[1]))
        return min(quotas, default=None)

    def cpus(self) -> float:
        """Cores that this process can keep busy: its affinity, or the quota where that is less."""
        affinity = len(os.sched_getaffinity(0))
        quota = self.cpu_quota()
        return affinity if quota is None else min(affinity, quota)

    def _directories(self, controller: str) -> Iterator[Path]:
        """The group's directory and those above it."""
        if controller in self._paths:
            mount, path = self._mount / controller, self._paths[controller]
        elif "" in self._paths:
            mount, path = self._mount, self._paths[""]
        else:
            return
        here = mount / path.lstrip("/")
        while here != mount and mount in here.parents:
            yield here
            here = here.parent
        yield mount


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None


def _limit(directory: Path) -> int | None:
    limit = _number(directory / "memory.max")
    if limit is None:
        limit = _number(directory / "memory.limit_in_bytes")
    return limit if limit is not None and limit < _UNLIMITED else None


def _entry(path: Path, name: str) -> int:
    """The number after `name` in a file of a name and a number a line; 0 where there is none."""
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return 0
