"""`python -m tui`: the dashboard alone, on a daemon's run directory or on the scripted source that needs no model and no GPU."""

from __future__ import annotations

import argparse
from pathlib import Path

from runtime.layout import Layout
from telemetry.endpoints import HubEndpoints
from tui.app import main
from tui.demo import DemoSource
from tui.source import LiveSource, Source


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tui", description="the dashboard on a daemon or on a scripted source")
    parser.add_argument("--source", choices=["live", "demo"], default="demo")
    parser.add_argument("--run-dir", type=Path, help="the daemon's, for live")
    parser.add_argument("--layout", type=Layout.parse, default=Layout(tp=2, pp=2), help="of the demo, for example ep2tp2pp2")
    parser.add_argument("--readonly", action="store_true")
    arguments = parser.parse_args()
    if arguments.source == "live" and arguments.run_dir is None:
        parser.error("--source live needs --run-dir")
    return arguments


def _source(arguments: argparse.Namespace) -> Source:
    if arguments.source == "live":
        return LiveSource(HubEndpoints.under(arguments.run_dir))
    return DemoSource(arguments.layout)


if __name__ == "__main__":
    given = _arguments()
    main(_source(given), given.readonly)
