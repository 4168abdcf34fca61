"""The commands that serve models: a daemon, what it deploys, and generation without one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.screen import print_lines
from cli.words import FAILED, CurveKeysOption, HttpOption, JsonOption, RunDirOption, bad, say, told, unwritten
from runtime.flags import LIVE, SAMPLING, SPEC, takes
from runtime.progress_lines import ProgressLines
from runtime.stress.options import STRESS

if TYPE_CHECKING:
    from telemetry.hub import Public

ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="a Hugging Face checkpoint's directory")]


def daemon(
    http: HttpOption = "127.0.0.1:8000",
    run_dir: RunDirOption = None,
    telemetry: Annotated[
        str | None,
        typer.Option(metavar="tcp://HOST:PORT", help="let dashboards elsewhere look, also at the next port; wants keys"),
    ] = None,
    curve_keys: CurveKeysOption = None,
    ready_fd: Annotated[int, typer.Option(hidden=True)] = -1,
) -> None:
    """Serve deployments until SIGTERM or Ctrl-C, which drain; a second one stops at once."""
    import logging

    from runtime import child
    from runtime.run_dir import RunDir

    public = public_telemetry(telemetry, curve_keys)
    child.die_with_parent()
    os.umask(0o077)  # sockets and logs are their owner's
    with told():
        place = RunDir(run_dir)
        place.acquire()
    from runtime.daemon.daemon import PortTaken, serve
    from telemetry.hub import EndpointTaken

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    with told():
        try:
            serve(http, place, ready_fd, public)
        except (PortTaken, EndpointTaken) as error:
            say(f"error: {error}")
            raise typer.Exit(FAILED) from None
        except ValueError as error:
            raise bad(str(error)) from None


def public_telemetry(address: str | None, directory: Path | None) -> Public | None:
    """What a daemon shows beyond its machine, or a usage error in words."""
    if address is None:
        return None
    if directory is None:
        raise bad(f"--telemetry {address} wants --curve-keys DIR: telemetry leaves a machine only encrypted")
    from telemetry.curve import HubKeys
    from telemetry.endpoints import HubEndpoints
    from telemetry.hub import Public

    try:
        return Public(HubEndpoints.public(address), HubKeys.read(directory))
    except ValueError as error:
        raise bad(str(error)) from None


def curve_keys(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="where to keep them")],
    viewer: Annotated[str, typer.Option(metavar="NAME", help="who may look")] = "viewer",
) -> None:
    """Make keys for telemetry over TCP: a viewer's, and the daemon's own where there are none. Prints the files."""
    from telemetry.curve import make_keys

    try:
        print("\n".join(str(path) for path in make_keys(directory, viewer)))
    except ValueError as error:
        raise bad(str(error)) from None
    except OSError as error:
        raise unwritten(directory, error) from None
    say(f"who looks from elsewhere needs {directory / 'hub.public'} and {directory / viewer}.secret, and nobody else the latter")


@takes("spec", SPEC)
def deploy(
    model: ModelArgument,
    spec: dict[str, Any],
    name: Annotated[str | None, typer.Option(help="the deployment's; else the directory's")] = None,
    config: Annotated[Path | None, typer.Option(help="a TOML or JSON file of the same settings; flags win")] = None,
    wait: Annotated[bool, typer.Option(help="return when it is READY")] = True,
    run_dir: RunDirOption = None,
) -> None:
    """Serve MODEL. Prints the deployment's name when it is READY; fails with the root cause."""
    from runtime.client import ControlClient

    given = {**(read_config(config) if config else {}), **spec, "model": model} | ({"name": name} if name else {})
    wanted = checked_spec(given).named()
    with told(), ControlClient(run_dir) as client:
        with ProgressLines() as lines:
            for progress in client.deploy(wanted, wait):
                lines.show(progress)
        print(wanted.name)


@takes("fields", LIVE)
def reconfigure(
    name: str,
    fields: dict[str, Any],
    as_json: JsonOption = False,
    wait: Annotated[bool, typer.Option(help="return when it is over")] = True,
    run_dir: RunDirOption = None,
) -> None:
    """Change a live deployment's layout, dtype or limits: its requests go on after a pause. What fails is rolled back."""
    from runtime.client import ControlClient
    from runtime.control import Changed

    with told(), ControlClient(run_dir) as client, ProgressLines() as lines:
        for news in client.reconfigure(name, fields, wait):
            if isinstance(news, Changed):
                if as_json:
                    print(json.dumps(news.asdict(), indent=2), flush=True)
                elif news.served:
                    print(news.words)
            else:
                lines.show(news)


def status(as_json: JsonOption = False, run_dir: RunDirOption = None) -> None:
    """What runs, and what each rank does."""
    from runtime.client import ControlClient
    from runtime.status import status_object

    with told(), ControlClient(run_dir) as client:
        info, snapshot = client.status()
        if as_json:
            print(json.dumps(status_object(info, snapshot), indent=2))
        else:
            say(f"daemon {info.pid} at {info.http}, run directory {info.run_dir}")
            print_lines(snapshot)


def stop(
    name: str, now: Annotated[bool, typer.Option("--now", help="do not drain")] = False, run_dir: RunDirOption = None
) -> None:
    """Drain a deployment, then stop it."""
    from runtime.client import ControlClient

    with told(), ControlClient(run_dir) as client:
        client.stop(name, now)


def logs(
    name: str, rank: Annotated[int | None, typer.Option(help="of this rank only")] = None, run_dir: RunDirOption = None
) -> None:
    """What the ranks and the engine of a deployment wrote."""
    from runtime.run_dir import RunDir

    with told():
        place = RunDir(run_dir).logs / Path(name).name
        found = sorted(place.glob("*.log") if rank is None else place.glob(f"rank-{rank}.log"))
        if not found:
            looked = place if place.is_dir() else place.parent
            known = sorted(each.name.removesuffix(".log") for each in looked.glob("*"))
            whose = f"'{name}'{'' if rank is None else f' rank {rank}'}"
            raise bad(f"no logs of {whose} in {place.parent}; there are: {', '.join(known) or 'none'}")
        for path in found:
            for line in path.read_text(errors="replace").splitlines():
                print(line if rank is not None else f"{path.stem} | {line}")


@takes("given", STRESS)
def stress(
    name: str,
    given: dict[str, Any],
    as_json: JsonOption = False,
    record: Annotated[bool, typer.Option(help="have the daemon record it, into the run directory's profiles")] = True,
    run_dir: RunDirOption = None,
) -> None:
    """Put load on a deployment, and measure what its clients would see."""
    from runtime.stress import command

    with told():
        try:
            code = command.stress(name, given, as_json, run_dir, record)
        except command.BadPlan as error:
            raise bad(str(error)) from None
        except command.TargetFailed as error:
            say(f"error: {error}")
            raise typer.Exit(FAILED) from None
    raise typer.Exit(code)


@takes("spec", SPEC)
@takes("sampling", SAMPLING)
def generate(
    model: ModelArgument,
    spec: dict[str, Any],
    sampling: dict[str, Any],
    prompt: Annotated[list[str] | None, typer.Option(help="may repeat")] = None,
    prompts_file: Annotated[Path | None, typer.Option(help='JSONL: {"prompt": ...} or {"prompt_token_ids": ...} a line')] = None,
    as_json: JsonOption = False,
) -> None:
    """Generate from prompts, without a daemon."""
    from runtime.generate import as_text, prompts_of, run
    from runtime.interrupt import leave_in_order

    leave_in_order()
    wanted = checked_spec({**spec, "model": model})
    try:
        prompts = prompts_of(prompt or [], prompts_file)
        result = run(wanted, prompts, sampling)
    except ValueError as error:
        raise bad(str(error)) from None
    except RuntimeError as error:
        say(f"error: {error}")
        raise typer.Exit(FAILED) from None
    with told():
        print(json.dumps(result) if as_json else as_text(result))


def checked_spec(fields: dict[str, Any]) -> Any:
    """A DeploymentSpec, or a usage error in words."""
    from pydantic import ValidationError

    from runtime.spec import DeploymentSpec, complaints

    try:
        return DeploymentSpec.model_validate(fields)
    except ValidationError as error:
        raise bad("; ".join(complaints(error).values())) from None


def read_config(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        text = path.read_text()
        return dict(json.loads(text) if path.suffix == ".json" else tomllib.loads(text))
    except (OSError, ValueError, TypeError) as error:
        raise bad(f"{path}: {error}") from None
