"""The command line: every command, by name.

stdout is data, stderr is words. Exit codes: 0 fine, 1 failed, 2 usage (impossible layouts and bad values among it).
"""

from __future__ import annotations

import typer

from cli import deployments, recordings, screen
from runtime.calibrate.command import calibrate
from runtime.planner.command import plan

app = typer.Typer(
    name="shardscope",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="See and steer sharded LLM inference.",
)
app.callback(invoke_without_command=True)(screen.dashboard)
for command in (
    screen.demo,
    deployments.daemon,
    deployments.deploy,
    deployments.reconfigure,
    deployments.status,
    deployments.stop,
    deployments.logs,
    deployments.generate,
    deployments.stress,
    recordings.record,
    recordings.replay,
    recordings.compare,
    recordings.export,
    recordings.recover,
    plan,
    calibrate,
    screen.keys,
    screen.web,
    deployments.curve_keys,
):
    app.command()(command)
