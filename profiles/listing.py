"""The recordings in a directory, by what can be told without reading them: who made each, how long it is, whether it is whole."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from mmap import mmap
from pathlib import Path

from msgspec import Struct

from profiles import container
from profiles.container import Damaged
from profiles.provenance import Provenance

SUFFIX, UNFINISHED = ".mcap", ".mcap.part"
SAMPLES = Path(__file__).parent / "samples"
COMPLETE, CUT, RECORDING, DAMAGED = "complete", "cut", "recording", "damaged"
_STILL_S = 5.0  # a recorder writes every second while anything happens


class Listed(Struct, frozen=True):
    """`state`: complete; recording, while it is written; cut, when its recorder did not finish; damaged, when it is no profile.

    `seconds` and `began_s` (unix time) are `None` where nothing whole tells of them.
    """

    path: Path
    size: int  # bytes
    state: str
    seconds: float | None = None
    began_s: float | None = None
    provenance: Provenance | None = None
    problem: str = ""


class Listing:
    """Looks at files again only when they have changed. For one thread."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int], Listed] = {}

    def look(self, directories: Iterable[Path], files: Iterable[Path] = ()) -> list[Listed]:
        """What lies in the directories, newest first in each, and the files; what cannot be opened says why."""
        paths = dict.fromkeys(path for place in directories for path in _newest_first(place))
        found = [listed for path in (*paths, *files) if (listed := self._listed(path)) is not None]
        self._known = {key: known for key, known in self._known.items() if known in found}
        return found

    def _listed(self, path: Path) -> Listed | None:
        try:
            about = path.stat()
        except OSError:
            return None  # it is finished under another name, or removed, since the directory was read
        key = path, about.st_size, about.st_mtime_ns
        if key not in self._known or self._known[key].state == RECORDING:
            self._known[key] = peek(path)
        return self._known[key]


def peek(path: Path) -> Listed:
    """A file by its first records and its index. Never raises for what is in it."""
    try:
        about = path.stat()
        with container.map_file(path) as file:
            return _peeked(path, file, about.st_mtime)
    except (OSError, Damaged) as error:
        size = path.stat().st_size if path.is_file() else 0
        return Listed(path, size, DAMAGED, problem=getattr(error, "strerror", None) or str(error))


def _peeked(path: Path, file: mmap, changed_s: float) -> Listed:
    if container.read_profile(file) != container.PROFILE:
        raise Damaged("an MCAP file, but not of shardscope")
    pairs = container.read_metadata(file, container.PROVENANCE)
    try:
        times = [(chunk.first_ns, chunk.last_ns) for chunk in container.read_index(file).chunks]
        state = COMPLETE
    except Damaged:
        times = list(container.chunk_times(file))
        written = path.name.endswith(UNFINISHED) and time.time() - changed_s < _STILL_S
        state = RECORDING if written else CUT
    first_ns, last_ns = min((first for first, _ in times), default=None), max((last for _, last in times), default=None)
    seconds = None if first_ns is None or last_ns is None else max(0, last_ns - first_ns) / 1e9
    provenance = Provenance.of_pairs(pairs) if pairs is not None else None
    return Listed(path, len(file), state, seconds, None if first_ns is None else first_ns / 1e9, provenance)


def _newest_first(directory: Path) -> Iterator[Path]:
    dated = []
    with suppress(OSError):
        for path in directory.iterdir():
            if path.name.endswith((SUFFIX, UNFINISHED)):
                with suppress(FileNotFoundError):  # finished under another name meanwhile
                    dated.append((path.stat().st_mtime, path))
    yield from (path for _, path in sorted(dated, reverse=True))
