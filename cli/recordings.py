"""The commands that make recordings and read them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.screen import keymap, on_screen, print_lines
from cli.words import FAILED, JsonOption, RunDirOption, bad, say, told, unwritten

if TYPE_CHECKING:
    from profiles.reader import Profile

ProfileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="a recording")]


def record(
    name: str,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="of the recording, as run.mcap")],
    seconds: Annotated[float | None, typer.Option(min=0, help="how long; else until Ctrl-C or SIGTERM")] = None,
    rotate_mib: Annotated[
        float | None, typer.Option(min=0.01, help="begin another file when one is that large; 768 unless told otherwise")
    ] = None,
    rotate_minutes: Annotated[float | None, typer.Option(min=0.01, help="or that old; 60 unless told otherwise")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="end a recording that somebody else began")] = False,
    run_dir: RunDirOption = None,
) -> None:
    """Have the daemon record a deployment. Prints the files when it is over."""
    from profiles.report import RecordingReport
    from runtime.client import ControlClient
    from runtime.interrupt import leave_in_order

    leave_in_order()
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
            except (KeyboardInterrupt, SystemExit):  # SystemExit: of a signal that asks the same
                report = client.stop_recording(name)
        if report is not None:
            say(report.words)
            print("\n".join(report.files))
            raise typer.Exit(FAILED if report.error else 0)


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
        except OSError as error:
            raise unwritten(out, error) from None
        except MissingPackage as error:
            say(f"error: {error}")
            raise typer.Exit(FAILED) from None


def recover(
    file: ProfileArgument, out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="of what is whole")]
) -> None:
    """Save what is whole of a recording that was cut short or damaged."""
    from profiles.command import recovery_lines
    from profiles.recovery import recover as rescue

    try:
        report = rescue(file, out)
    except OSError as error:
        raise unwritten(out, error) from None
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


def struct_fields(struct: Any) -> dict[str, Any]:
    import msgspec

    return msgspec.structs.asdict(struct)
