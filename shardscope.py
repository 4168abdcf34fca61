"""The front door: the command line. It parses, then imports what the command needs.

stdout is data, stderr is words. Exit codes: 0 fine, 1 failed, 2 usage (impossible layouts and bad values among it).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.calibrate.command import calibrate
from runtime.flags import LIVE, SAMPLING, SPEC, takes
from runtime.planner.command import plan
from runtime.stress.options import STRESS

if TYPE_CHECKING:
    from profiles.reader import Profile
    from runtime.run_dir import RunDir
    from telemetry.hub import Public
    from telemetry.snapshot import Snapshot
    from tui.keymap import Keymap

FAILED, USAGE = 1, 2
LINES_EVERY_S = 2.0
ANSWER_S = 5.0

app = typer.Typer(
    name="shardscope",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="See and steer sharded LLM inference.",
)

RunDirOption = Annotated[
    Path | None, typer.Option("--run-dir", envvar="SHARDSCOPE_RUN_DIR", help="the daemon's; else in the user's runtime directory")
]
JsonOption = Annotated[bool, typer.Option("--json", help="one documented object instead of text")]
CurveKeysOption = Annotated[
    Path | None, typer.Option("--curve-keys", metavar="DIR", help="keys for telemetry over TCP, made by `shardscope curve-keys`")
]
HttpOption = Annotated[str, typer.Option("--http", metavar="HOST:PORT", help="where to serve the API")]
ProfileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="a recording")]
ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="a Hugging Face checkpoint's directory")]


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


@app.callback(invoke_without_command=True)
def dashboard(
    context: typer.Context,
    run_dir: RunDirOption = None,
    http: HttpOption = "127.0.0.1:8000",
    readonly: Annotated[bool, typer.Option("--readonly", help="look, change nothing")] = False,
    source: Annotated[str, typer.Option(metavar="live|demo", help="demo: a script, without daemon, model or GPU")] = "live",
    layout: Annotated[str, typer.Option(help="of the demo's deployment")] = "tp2pp2",
    connect: Annotated[
        str | None, typer.Option(metavar="tcp://HOST:PORT", help="the telemetry of a daemon elsewhere, to look at; wants keys")
    ] = None,
    curve_keys: CurveKeysOption = None,
) -> None:
    """The dashboard when no command is given: attaches to the daemon, starts one when there is none."""
    if context.invoked_subcommand is not None:
        return
    if connect is not None:
        look_from_afar(connect, curve_keys)
        return
    if source == "demo":
        show_script(layout, readonly)
        return
    if source != "live":
        raise bad(f"--source {source}: it is 'live' or 'demo'")
    if on_screen():
        keymap()  # what is wrong with it is said before a daemon is started
    with told():
        watch(occupied(run_dir, http), seconds=None, readonly=readonly)


def look_from_afar(address: str, directory: Path | None) -> None:
    """The dashboard of another machine's daemon; without a terminal, its state once."""
    from telemetry.client import TelemetryClient
    from telemetry.curve import ViewerKeys
    from telemetry.endpoints import HubEndpoints

    if directory is None:
        raise bad(f"--connect {address} wants --curve-keys DIR: hub.public and a viewer's secret (`shardscope curve-keys`)")
    try:
        endpoints, keys = HubEndpoints.public(address), ViewerKeys.read(directory)
    except ValueError as error:
        raise bad(str(error)) from None
    if on_screen():
        from tui.app import main as show
        from tui.source import LiveSource

        show(LiveSource(endpoints, keys), readonly=True, keymap=keymap())
        return
    with TelemetryClient(endpoints.snapshots, keys) as client:
        snapshot = client.poll(ANSWER_S)
    if snapshot is None:
        say(f"error: no answer from {address} within {ANSWER_S:.0f} s: is it there, and is our key on its list?")
        raise typer.Exit(FAILED)
    print_lines(snapshot)


def show_script(layout: str, readonly: bool) -> None:
    from runtime.layout import Layout
    from tui.demo import DemoSource

    try:
        script = DemoSource(Layout.parse(layout))
    except ValueError as error:
        raise bad(str(error)) from None
    if not on_screen():
        print_lines(script.latest())
        return
    from tui.app import main as show

    show(script, readonly, keymap=keymap())


def occupied(run_dir: Path | None, http: str) -> RunDir:
    """The daemon's place, where one runs from now on if none did."""
    from runtime.background import DaemonProcess
    from runtime.run_dir import RunDir

    place = RunDir(run_dir)
    if not place.occupied:
        daemon = DaemonProcess(run_dir, http, detached=True)
        say(f"started a daemon, pid {daemon.pid}: it stays when you leave (kill {daemon.pid} stops it)")
    return place


def on_screen() -> bool:
    """Whether there is a terminal to draw on, which is done through stderr, or a browser behind `shardscope web`."""
    return "TEXTUAL_DRIVER" in os.environ or all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))


def keymap() -> Keymap:
    """The user's keys, or a usage error in words."""
    from tui.app import tables
    from tui.keymap import KeymapError, read_keymap

    try:
        return read_keymap(tables)
    except KeymapError as error:
        raise bad(str(error)) from None


@app.command()
def keys() -> None:
    """The dashboard's keys, by the names that the file of your own knows them by."""
    from tui.app import tables
    from tui.keymap import listing

    print("\n".join(listing(tables(), keymap())))


@app.command()
def web(
    host: Annotated[str, typer.Option(help="where to listen")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8001,
    readonly: Annotated[bool, typer.Option("--readonly", help="look, change nothing")] = False,
    run_dir: RunDirOption = None,
    http: HttpOption = "127.0.0.1:8000",
) -> None:
    """The same dashboard in a browser. Who reaches the port can do what the dashboard can: there is no password."""
    from tui.web import Exposed, MissingPackage, serve

    keymap()
    with told():
        try:
            serve(host, port, readonly, lambda: occupied(run_dir, http).path, say)
        except Exposed as error:
            raise bad(str(error)) from None
        except MissingPackage as error:
            say(f"error: {error}")
            raise typer.Exit(FAILED) from None


@app.command()
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


@app.command()
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
        say(f"error: {error}")
        raise typer.Exit(FAILED) from None
    say(f"who looks from elsewhere needs {directory / 'hub.public'} and {directory / viewer}.secret, and nobody else the latter")


@app.command()
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
    from runtime.demo import progress_line

    given = {**(read_config(config) if config else {}), **spec, "model": model} | ({"name": name} if name else {})
    wanted = checked_spec(given).named()
    with told(), ControlClient(run_dir) as client:
        line = ""
        for progress in client.deploy(wanted, wait):
            if progress_line(progress) != line:
                line = progress_line(progress)
                say(line)
        print(wanted.name)


@app.command()
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
    from runtime.demo import progress_line

    with told(), ControlClient(run_dir) as client:
        line = ""
        for news in client.reconfigure(name, fields, wait):
            if isinstance(news, Changed):
                if as_json:
                    print(json.dumps(news.asdict(), indent=2), flush=True)
                elif news.served:
                    print(news.words)
            elif progress_line(news) != line:
                line = progress_line(news)
                say(line)


@app.command()
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


@app.command()
def stop(
    name: str, now: Annotated[bool, typer.Option("--now", help="do not drain")] = False, run_dir: RunDirOption = None
) -> None:
    """Drain a deployment, then stop it."""
    from runtime.client import ControlClient

    with told(), ControlClient(run_dir) as client:
        client.stop(name, now)


@app.command()
def logs(
    name: str, rank: Annotated[int | None, typer.Option(help="of this rank only")] = None, run_dir: RunDirOption = None
) -> None:
    """What the ranks and the engine of a deployment wrote."""
    from runtime.run_dir import RunDir

    with told():
        place = RunDir(run_dir).logs / Path(name).name
        found = sorted(place.glob("*.log") if rank is None else place.glob(f"rank-{rank}.log"))
        if not found:
            raise bad(f"no logs of '{name}'{'' if rank is None else f' rank {rank}'} in {place.parent}")
        for path in found:
            for line in path.read_text(errors="replace").splitlines():
                print(line if rank is not None else f"{path.stem} | {line}")


@app.command()
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


@app.command()
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

    try:
        prompts = prompts_of(prompt or [], prompts_file)
        result = run(checked_spec({**spec, "model": model}), prompts, sampling)
    except ValueError as error:
        raise bad(str(error)) from None
    except RuntimeError as error:
        say(f"error: {error}")
        raise typer.Exit(FAILED) from None
    with told():
        print(json.dumps(result) if as_json else as_text(result))


@app.command()
def demo(
    headless: Annotated[bool, typer.Option("--headless", help="plain lines instead of the dashboard")] = False,
    seconds: Annotated[float, typer.Option(min=0, help="how long, headless")] = 60.0,
    directory: Annotated[Path | None, typer.Option("--dir", help="of the demo checkpoint; else in the user's cache")] = None,
    http: HttpOption = "127.0.0.1:0",
) -> None:
    """A demo model, sharded over four ranks of this machine, under light load."""
    import signal

    from runtime.demo import DemoFailed, demo_checkpoint, demo_world

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # leave through every `finally`
    with told():
        try:
            model = demo_checkpoint(directory)
        except DemoFailed as error:
            say(f"error: {error}")
            raise typer.Exit(FAILED) from None
        with demo_world(model, http, say) as served:
            watch(served.run_dir, seconds, headless)


@app.command()
def record(
    name: str,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="of the recording, as run.mcap")],
    seconds: Annotated[float | None, typer.Option(min=0, help="how long; else until Ctrl-C")] = None,
    rotate_mib: Annotated[
        float | None, typer.Option(min=0.01, help="begin another file when one is that large; 512 unless told otherwise")
    ] = None,
    rotate_minutes: Annotated[float | None, typer.Option(min=0.01, help="or that old; 60 unless told otherwise")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="end a recording that somebody else began")] = False,
    run_dir: RunDirOption = None,
) -> None:
    """Have the daemon record a deployment. Prints the files when it is over."""
    from profiles.report import RecordingReport
    from runtime.client import ControlClient

    with told(), ControlClient(run_dir) as client:
        report = client.stop_recording(name) if stop else None
        if report is None:
            try:
                size = None if rotate_mib is None else round(rotate_mib * 2**20)
                age = None if rotate_minutes is None else 60 * rotate_minutes
                for news in client.record(name, out, seconds, rotate_bytes=size, rotate_s=age):
                    if isinstance(news, RecordingReport):
                        report = news
                    else:
                        say(f"recording '{name}' to {news.path}; Ctrl-C ends it")
            except KeyboardInterrupt:
                report = client.stop_recording(name)
        if report is not None:
            say(report.words)
            print("\n".join(report.files))
            raise typer.Exit(FAILED if report.error else 0)


@app.command()
def replay(
    file: ProfileArgument,
    at: Annotated[str | None, typer.Option(metavar="MM:SS", help="the state then, without a dashboard")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="the whole run's figures")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a recording on the dashboard, or what it holds at a moment or in all."""
    from profiles import command
    from profiles.player import Player
    from profiles.replay import ReplaySource, parse_moment
    from runtime.status import deployment_objects

    with opened(file) as profile:
        if summary:
            with reading() as progress:
                figures = command.summary_object(profile, progress)
            print(json.dumps(figures, indent=2) if as_json else "\n".join(command.summary_lines(figures)))
            return
        if at is None and not as_json and on_screen():
            from tui.app import main as show

            show(ReplaySource(profile), keymap=keymap())
            return
        try:
            moment = profile.seconds if at is None else parse_moment(at)
        except ValueError as error:
            raise bad(str(error)) from None
        if moment > profile.seconds:
            raise bad(f"{at} is beyond the end, which is at {profile.seconds:.1f} s")
        snapshot = Player(profile).at(profile.start_ns + round(1e9 * moment))
        if as_json:
            about = {"recording": command.recording_object(profile), "at": moment, "window_s": snapshot.window_s}
            events = [{"at": profile.moment(each.time_ns), **struct_fields(each)} for each in snapshot.events]
            whole = {**about, "telemetry_lost": snapshot.lost, "deployments": deployment_objects(snapshot), "events": events}
            print(json.dumps(whole, indent=2))
        else:
            print_lines(snapshot)


@app.command()
def compare(
    a: ProfileArgument,
    b: ProfileArgument,
    as_json: JsonOption = False,
    fail_on: Annotated[
        str | None,
        typer.Option("--fail-on", metavar="5%", help="exit 1 when a measure got worse by more; of percentages: points"),
    ] = None,
) -> None:
    """What got better and what worse from recording A to B, and what is noise."""
    from profiles import command, comparison

    try:
        beyond = None if fail_on is None else command.share(fail_on)
    except ValueError as error:
        raise bad(str(error)) from None
    with opened(a) as before, opened(b) as after:
        try:
            with reading() as progress:
                found = comparison.compare(before, after, progress)
        except comparison.NotComparable as error:
            raise bad(f"not comparable: {error}") from None
    if as_json:
        print(json.dumps(command.comparison_object(found, beyond), indent=2))
    else:
        print("\n".join(command.comparison_lines(found)))
    regressions = found.regressions(beyond) if beyond is not None else []
    if regressions:
        say(f"worse by more than {fail_on}: {', '.join(change.measure for change in regressions)}")
        raise typer.Exit(FAILED)


@app.command()
def export(
    file: ProfileArgument,
    form: Annotated[str, typer.Option("--format", help="chrome (opens in Perfetto), csv or parquet")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="a file; of csv and parquet, or a directory")],
    table: Annotated[str | None, typer.Option(help="which one, of csv and parquet; else steps")] = None,
) -> None:
    """Hand a recording to other tools. Prints the files."""
    from profiles import command
    from profiles.tables import MissingPackage

    with opened(file) as profile:
        try:
            print("\n".join(str(path) for path in command.export(profile, form, out, table)))
        except ValueError as error:
            raise bad(str(error)) from None
        except (OSError, MissingPackage) as error:
            say(f"error: {error}")
            raise typer.Exit(FAILED) from None


@app.command()
def recover(
    file: ProfileArgument, out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="of what is whole")]
) -> None:
    """Save what is whole of a recording that was cut short or damaged."""
    from profiles.command import recovery_lines
    from profiles.recovery import recover as rescue

    try:
        report = rescue(file, out)
    except OSError as error:
        say(f"error: {error}")
        raise typer.Exit(FAILED) from None
    for line in recovery_lines(report, out):
        say(line)
    if not report.messages:
        raise typer.Exit(FAILED)
    print(out)


@contextmanager
def opened(path: Path) -> Iterator[Profile]:
    """A recording, or a usage error in words."""
    from profiles.reader import Profile, ProfileError

    try:
        profile = Profile(path)
    except ProfileError as error:
        raise bad(str(error)) from None
    with told(), profile:
        yield profile


def struct_fields(struct: Any) -> dict[str, Any]:
    import msgspec

    return msgspec.structs.asdict(struct)


def watch(place: RunDir, seconds: float | None, headless: bool = False, readonly: bool = False) -> None:
    """The dashboard; without a terminal, or `headless`, plain lines for so many seconds (None: until somebody ends us)."""
    info = place.info
    if not headless and info is not None and on_screen():
        from telemetry.endpoints import HubEndpoints
        from tui.app import main as show
        from tui.source import LiveSource

        show(LiveSource(HubEndpoints.under(place.path)), readonly, place.path, keymap())
        return
    from runtime.client import ControlClient

    end = None if seconds is None else time.monotonic() + seconds
    with ControlClient(place.path) as client:
        while end is None or time.monotonic() < end:
            print_lines(client.snapshot())
            time.sleep(LINES_EVERY_S if end is None else max(0.0, min(LINES_EVERY_S, end - time.monotonic())))


@contextmanager
def reading() -> Iterator[Callable[[float], None] | None]:
    """How much of a recording is read, on a line of a terminal that then goes away; `None` where nobody looks."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        yield lambda share: print(f"\r{100 * share:3.0f}% read", end="", file=sys.stderr, flush=True)
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def print_lines(snapshot: Snapshot) -> None:
    from tui.view.plain import deployment_lines, finding_lines, rank_lines

    for line in (*deployment_lines(snapshot), *finding_lines(snapshot), *rank_lines(snapshot)):
        print(line, flush=True)


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


app.command()(plan)
app.command()(calibrate)


def main() -> None:
    try:
        app(prog_name="shardscope")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
