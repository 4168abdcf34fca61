"""What all commands share: options, words for people on stderr, errors as exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

FAILED, USAGE = 1, 2

RunDirOption = Annotated[
    Path | None, typer.Option("--run-dir", envvar="SHARDSCOPE_RUN_DIR", help="the daemon's; else in the user's runtime directory")
]
JsonOption = Annotated[bool, typer.Option("--json", help="one documented object instead of text")]
CurveKeysOption = Annotated[
    Path | None, typer.Option("--curve-keys", metavar="DIR", help="keys for telemetry over TCP, made by `shardscope curve-keys`")
]
HttpOption = Annotated[str, typer.Option("--http", metavar="HOST:PORT", help="where to serve the API")]


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


@contextmanager
def told() -> Iterator[None]:
    """Errors that have words become those words and an exit code; others are faults of ours and keep their traceback."""
    from runtime.background import StartFailed
    from runtime.client import DaemonError
    from runtime.run_dir import RunDirError

    try:
        yield
    except DaemonError as error:
        say(f"error: {error}")
        raise typer.Exit(USAGE if error.usage else FAILED) from None
    except (RunDirError, StartFailed) as error:
        say(f"error: {error}")
        raise typer.Exit(FAILED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads any more: nothing to complain about at exit either
        raise typer.Exit(0) from None


def bad(words: str) -> typer.Exit:
    say(f"error: {words}")
    return typer.Exit(USAGE)


def unwritten(target: Path, error: OSError) -> typer.Exit:
    """What was to be written there could not be. The system's own words do not always say where."""
    say(f"error: {error.filename or target}: {error.strerror}" if error.strerror else f"error: {error}")
    return typer.Exit(FAILED)
