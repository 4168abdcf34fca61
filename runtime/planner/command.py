"""`shardscope plan`: parse, plan, print. Registered by the front door; imports the planner when it runs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from runtime.planner.calibration import Calibration
    from runtime.planner.hardware import Cluster
    from runtime.planner.search import Plan, UseCase

FAILED, USAGE = 1, 2
MOST_GPUS, MOST_TOKENS = 16384, 1 << 24


def _whole(least: int, most: int) -> Callable[[str | int], int]:
    def read(text: str | int) -> int:
        return int(_within(str(text), "a whole number", least, most))

    return read


def _rate(text: str | float) -> float:
    return _within(str(text), "a number", 0.001, 1e9)


def _within(text: str, what: str, least: float, most: float) -> float:
    """Raises typer.BadParameter naming value, rule and the nearest that works."""
    try:
        value = float(text)
    except ValueError:
        value = nan
    if least <= value <= most and (what == "a number" or value == int(value)):
        return value
    nearest = least if isnan(value) else min(max(value, least), most)
    words = f"{nearest:g}" if what == "a number" else f"{round(nearest)}"
    raise typer.BadParameter(f"'{text}' is not {what} from {least:,} to {most:,.0f}; nearest that works: {words}")


def _gpus(words: str) -> Any:
    return typer.Option(parser=_whole(1, MOST_GPUS), metavar="COUNT", help=words)


def _tokens(words: str) -> Any:
    return typer.Option(parser=_whole(1, MOST_TOKENS), metavar="COUNT", help=words)


def plan(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="a checkpoint's directory or a named model")] = None,
    gpu: Annotated[str, typer.Option(help="of the catalogue, of --gpu-file, local: this machine's, or cpu: its cores")] = "local",
    gpus: Annotated[int | None, _gpus("else 1, and with local all that are here")] = None,
    nodes: Annotated[int | None, _gpus("that the GPUs are spread over; else as many as they need")] = None,
    isl: Annotated[int, _tokens("tokens of input")] = 1024,
    osl: Annotated[int, _tokens("tokens of output")] = 256,
    concurrency: Annotated[int | None, _tokens("requests in flight; else every load up to what fits")] = None,
    rate: Annotated[
        float | None, typer.Option(parser=_rate, metavar="NUMBER", help="requests a second, not --concurrency")
    ] = None,
    dtype: Annotated[str, typer.Option(help="of the weights; else the checkpoint's own")] = "auto",
    kv_dtype: Annotated[str, typer.Option(help="of the cache; else as the engine chooses")] = "auto",
    use_case: Annotated[str, typer.Option(help="whose limits count: chat, voice, batch, ...")] = "chat",
    slo: Annotated[str | None, typer.Option(help="limits in place of the use case's, in ms: ttft=500,tpot=30,e2e=8000")] = None,
    engine: Annotated[str, typer.Option(help="whose layouts and collectives: shardscope, vllm, sglang, trtllm")] = "shardscope",
    launch: Annotated[str | None, typer.Option(metavar="ENGINE", help="print the command that starts the choice there")] = None,
    validate: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="predict measured rows and print the errors")] = None,
    gpu_file: Annotated[Path | None, typer.Option(help="JSON of one's own GPUs, fields as in the catalogue")] = None,
    calibration: Annotated[Path | None, typer.Option(help="what `shardscope calibrate` wrote of this machine")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one documented object instead of text")] = False,
) -> None:
    """Predict every layout of MODEL on so many GPUs, and say which to take and why."""
    from runtime.planner.names import PlanError

    try:
        if validate is not None:
            _print_validation(validate, calibration, as_json)
            return
        if not model:
            raise PlanError("which MODEL? a checkpoint's directory, or a name such as llama-3.1-70b")
        if concurrency is not None and rate is not None:
            raise PlanError("--concurrency and --rate say two different things: give one")
        from runtime.planner.memory import cache_format
        from runtime.planner.models import find_model
        from runtime.planner.parameters import find_engine, find_format
        from runtime.planner.search import Request, make_plan

        serving, found = find_engine(launch or engine), find_model(model)
        weights = (found.stored_as or "bf16") if dtype == "auto" else find_format(dtype).name
        kv = cache_format(serving.kv, weights) if kv_dtype == "auto" else find_format(kv_dtype).name
        cluster, known = _cluster(gpu, gpus, nodes, gpu_file, calibration)
        request = Request(found, cluster, isl, osl, concurrency, rate, weights, kv, serving.name, known, model)
        made = make_plan(request, _use_case(use_case, slo))
        if launch is not None:
            _print_launch(made, model, as_json)
        else:
            _print_plan(made, as_json)
        if made.choice is None:
            raise typer.Exit(FAILED)
    except PlanError as error:
        _say(f"error: {error}")
        raise typer.Exit(USAGE) from None


def _calibration(path: Path | None) -> Calibration:
    from runtime.planner.calibration import Calibration, load

    return Calibration() if path is None else load(path)


def _use_case(name: str, slo: str | None) -> UseCase:
    from runtime.planner.names import PlanError
    from runtime.planner.search import find_use_case
    from runtime.stress.goodput import parse_slo
    from runtime.stress.values import BadPlan

    found = find_use_case(name)
    try:
        return found if slo is None else found.limited_to(parse_slo(slo))
    except BadPlan as error:
        raise PlanError(str(error)) from None


def _cluster(
    gpu: str, gpus: int | None, nodes: int | None, file: Path | None, calibration: Path | None
) -> tuple[Cluster, Calibration]:
    from runtime.planner.calibration import load
    from runtime.planner.hardware import Cluster, on_nodes
    from runtime.planner.local import find_device, local_count

    device, known = find_device(gpu, file, None if calibration is None else load(calibration))
    count = gpus or local_count(gpu)
    return Cluster(device if nodes is None else on_nodes(device, count, nodes), count), known


def _print_plan(made: Plan, as_json: bool) -> None:
    from runtime.planner.report import plan_lines, plan_object

    _out(plan_object(made) if as_json else plan_lines(made, _columns()))


def _print_launch(made: Plan, model: str, as_json: bool) -> None:
    from runtime.planner.launch import launch_command
    from runtime.planner.report import nearest_to_fit

    if made.choice is None:
        _say(f"error: nothing fits on {made.request.cluster.gpus} x {made.request.cluster.gpu.name}: {nearest_to_fit(made)}")
        return
    engine, point = made.request.engine, made.choice.point
    command = launch_command(engine, point, model)
    if as_json:
        _out({"engine": engine, "layout": str(point.sharding), "command": command, "reason": made.choice.reason})
    else:
        _say(f"{point.sharding}: {made.choice.reason}")
        print(command)


def _print_validation(path: Path, calibration: Path | None, as_json: bool) -> None:
    from runtime.planner.report import validation_lines, validation_object
    from runtime.planner.validation import validate

    found = validate(path, _calibration(calibration).scale)
    _out(validation_object(found) if as_json else validation_lines(found, _columns()))
    if not found.scores:
        _say(f"error: no row of {path} could be predicted")
        raise typer.Exit(FAILED)


def _columns() -> int | None:
    """Of the terminal; None where lines go elsewhere, which wants them whole."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _out(content: dict[str, Any] | list[str]) -> None:
    print(json.dumps(content, indent=2) if isinstance(content, dict) else "\n".join(content))


def _say(words: str) -> None:
    print(words, file=sys.stderr)
