"""Directories to choose a checkpoint from: what a path that is typed may become, and those that were deployed lately."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_MOST = 200  # completions
_KEPT = 20  # recent ones


def completions(text: str) -> list[str]:
    """Directories that begin with `text`, checkpoints first, as paths that can be typed on: only a checkpoint lacks its `/`.

    Of an empty text: the recent ones.
    """
    if not text.strip():
        return recent()
    place, begin = os.path.split(os.path.expanduser(text))
    found: list[tuple[bool, str]] = []
    with suppress(OSError), os.scandir(place or ".") as entries:
        for entry in entries:
            hidden = entry.name.startswith(".") and not begin.startswith(".")
            if not hidden and entry.name.startswith(begin) and _is_directory(entry):
                path = os.path.join(place, entry.name)
                found.append((not is_checkpoint(path), path))
                if len(found) == 50 * _MOST:
                    break
    return [path + "/" * plain for plain, path in sorted(found)][:_MOST]


def completed(text: str, found: Sequence[str]) -> str:
    """As far as all of them agree; `text` itself when they agree on no more."""
    common = os.path.commonprefix([path.rstrip("/") if len(found) > 1 else path for path in found])  # noqa: RUF071 - of what is being typed, not of whole components
    return common if len(common) > len(os.path.expanduser(text)) else text


def is_checkpoint(path: str) -> bool:
    return os.path.isfile(os.path.join(path, "config.json"))


def recent() -> list[str]:
    """Those that were deployed from here, the last first, as far as they are still there."""
    with suppress(OSError, UnicodeDecodeError):
        return [path for path in _file().read_text(encoding="utf-8").splitlines() if is_checkpoint(path)][:_KEPT]
    return []


def remember(path: str) -> None:
    """A file that cannot be written is no reason not to deploy."""
    with suppress(OSError):
        place = _file()
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = [path, *(other for other in recent() if other != path)][:_KEPT]
        with tempfile.NamedTemporaryFile("w", dir=place.parent, encoding="utf-8", delete=False) as fresh:
            fresh.write("".join(f"{each}\n" for each in kept))
        os.replace(fresh.name, place)


def _file() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "shardscope" / "checkpoints"


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
