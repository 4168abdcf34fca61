"""The commands that show the dashboard, and what they print where there is no terminal to draw on."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.words import FAILED, CurveKeysOption, HttpOption, RunDirOption, bad, say, told

if TYPE_CHECKING:
    from runtime.run_dir import RunDir
    from telemetry.snapshot import Snapshot
    from tui.keymap import Keymap

LINES_EVERY_S = 2.0
ANSWER_S = 5.0


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
        refuse_misplaced(context)
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


def demo(
    headless: Annotated[bool, typer.Option("--headless", help="plain lines instead of the dashboard")] = False,
    seconds: Annotated[float, typer.Option(min=0, help="how long, headless")] = 60.0,
    directory: Annotated[Path | None, typer.Option("--dir", help="of the demo checkpoint; else in the user's cache")] = None,
    http: HttpOption = "127.0.0.1:0",
) -> None:
    """A demo model, sharded over four ranks of this machine, under light load."""
    from runtime.demo import DemoFailed, demo_checkpoint, demo_world
    from runtime.interrupt import leave_in_order

    leave_in_order()
    with told():
        try:
            model = demo_checkpoint(directory)
            say(f"demo model {model}")
        except DemoFailed as error:
            say(f"error: {error}")
            raise typer.Exit(FAILED) from None
        with demo_world(model, http, say) as served:
            watch(served.run_dir, seconds, headless)


def keys() -> None:
    """The dashboard's keys, by the names that the file of your own knows them by."""
    from tui.app import tables
    from tui.keymap import listing

    print("\n".join(listing(tables(), keymap())))


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
        raise bad(f"--layout {layout}: {error}; nearest that works: {Layout(tp=2, pp=2)}") from None
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


def refuse_misplaced(context: typer.Context) -> None:
    """The dashboard's options mean nothing to a command, which would silently go without."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if source is not None and source.name == "COMMANDLINE":
            flag, command = option.opts[0], context.invoked_subcommand
            takes = f"what {command} takes comes after it: shardscope {command} --help"
            raise bad(f"{flag} before '{command}' is the dashboard's; {takes}")


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


def print_lines(snapshot: Snapshot) -> None:
    from tui.view.plain import deployment_lines, finding_lines, rank_lines

    for line in (*deployment_lines(snapshot), *finding_lines(snapshot), *rank_lines(snapshot)):
        print(line, flush=True)
