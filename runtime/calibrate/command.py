"""`shardscope calibrate`: measure this machine, or fit the planner to recorded runs, and keep what was found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

FAILED, USAGE = 1, 2


def calibrate(
    seconds: Annotated[float, typer.Option(min=10, help="how long to measure, about")] = 90.0,
    device: Annotated[str, typer.Option(help="cpu or cuda; auto: cuda where there is one")] = "auto",
    out: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="else where `shardscope plan --gpu local` looks")
    ] = None,
    runs: Annotated[
        list[Path] | None, typer.Option("--from", metavar="RUN.mcap", help="fit to a recording instead; may repeat")
    ] = None,
    model: Annotated[str | None, typer.Option(help="of the recordings, where it lies elsewhere now")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the file's content instead of its path")] = False,
) -> None:
    """Measure this machine, so that plans for it rest on what it does. Prints the file that they will be read from."""
    from runtime.calibrate.machine import NothingToMeasure, measure_machine
    from runtime.calibrate.worlds import MeasureFailed
    from runtime.interrupt import leave_in_order
    from runtime.planner.names import PlanError

    leave_in_order()
    try:
        if runs:
            from runtime.calibrate.recorded import fit_runs

            path = fit_runs(runs, out, model, _say)
        else:
            path = measure_machine(device, seconds, out, _say)
    except (PlanError, NothingToMeasure) as error:
        _say(f"error: {error}")
        raise typer.Exit(USAGE) from None
    except (MeasureFailed, OSError) as error:
        _say(f"error: {error}")
        raise typer.Exit(FAILED) from None
    print(json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=2) if as_json else path)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
