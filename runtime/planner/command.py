"""`shardscope plan`: parse, plan, print. Registered by the front door; imports the planner when it runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from runtime.planner.calibration import Calibration
    from runtime.planner.hardware import Cluster
    from runtime.planner.search import Plan, UseCase

FAILED, USAGE = 1, 2


def plan(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="a checkpoint's directory or a named model")] = None,
    gpu: Annotated[str, typer.Option(help="of the catalogue, of --gpu-file, local: this machine's, or cpu: its cores")] = "local",
    gpus: Annotated[int, typer.Option(min=1, max=16384)] = 1,
    nodes: Annotated[int | None, typer.Option(min=1, help="that the GPUs are spread over; else as many as they need")] = None,
    isl: Annotated[int, typer.Option("--isl", min=1, max=1 << 24, help="tokens of input")] = 1024,
    osl: Annotated[int, typer.Option("--osl", min=1, max=1 << 24, help="tokens of output")] = 256,
    concurrency: Annotated[int | None, typer.Option(min=1, help="requests in flight; else every load up to what fits")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, max=1e9, help="requests a second, in place of --concurrency")] = None,
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
        if model is None:
            raise PlanError("which MODEL? a checkpoint's directory, or a name such as llama-3.1-70b")
        if concurrency is not None and rate is not None:
            raise PlanError("--concurrency and --rate say two different things: give one")
        from runtime.planner.models import find_model
        from runtime.planner.parameters import find_engine
        from runtime.planner.search import Request, make_plan

        engine = launch or engine
        found = find_model(model)
        weights = (found.stored_as or "bf16") if dtype == "auto" else dtype
        kv = find_engine(engine).kv if kv_dtype == "auto" else kv_dtype
        cluster, known = _cluster(gpu, gpus, nodes, gpu_file, calibration)
        request = Request(found, cluster, isl, osl, concurrency, rate, weights, kv, engine, known)
        made = make_plan(request, _use_case(use_case, slo))
        if launch is not None:
            _print_launch(made, launch, model, as_json)
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


def _cluster(gpu: str, gpus: int, nodes: int | None, file: Path | None, calibration: Path | None) -> tuple[Cluster, Calibration]:
    from runtime.planner.calibration import load
    from runtime.planner.hardware import Cluster, on_nodes
    from runtime.planner.local import find_device

    device, known = find_device(gpu, file, None if calibration is None else load(calibration))
    return Cluster(device if nodes is None else on_nodes(device, gpus, nodes), gpus), known


def _print_plan(made: Plan, as_json: bool) -> None:
    from runtime.planner.report import plan_lines, plan_object

    _out(plan_object(made) if as_json else plan_lines(made))


def _print_launch(made: Plan, engine: str, model: str, as_json: bool) -> None:
    from runtime.planner.launch import launch_command

    if made.choice is None:
        _say(f"error: nothing fits on {made.request.cluster.gpus} x {made.request.cluster.gpu.name}")
        return
    command, point = launch_command(engine, made.choice.point, model), made.choice.point
    if as_json:
        _out({"engine": engine, "layout": str(point.sharding), "command": command, "reason": made.choice.reason})
    else:
        _say(f"{point.sharding}: {made.choice.reason}")
        print(command)


def _print_validation(path: Path, calibration: Path | None, as_json: bool) -> None:
    from runtime.planner.report import validation_lines, validation_object
    from runtime.planner.validation import validate

    found = validate(path, _calibration(calibration).scale)
    _out(validation_object(found) if as_json else validation_lines(found))
    if not found.scores:
        _say(f"error: no row of {path} could be predicted")
        raise typer.Exit(FAILED)


def _out(content: dict[str, Any] | list[str]) -> None:
    print(json.dumps(content, indent=2) if isinstance(content, dict) else "\n".join(content))


def _say(words: str) -> None:
    print(words, file=sys.stderr)
