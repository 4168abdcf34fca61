"""Pictures for the README, drawn from a running daemon and never from the scripted source.

python docs/pictures.py --run-dir DIR [--seconds 30]
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from telemetry.endpoints import HubEndpoints
from tui.app import Dashboard
from tui.source import LiveSource

SIZE = (120, 40)
HERE = Path(__file__).parent


async def draw(run_dir: Path, seconds: float) -> None:
    """Watch for so long that the histories have something to show, then save each screen."""
    app = Dashboard(LiveSource(HubEndpoints.under(run_dir)))
    async with app.run_test(size=SIZE) as pilot:
        await asyncio.sleep(seconds)
        snapshot, feed = app.session.look()
        if snapshot is None or not snapshot.deployments:
            raise SystemExit(f"nothing to draw: {feed.problem or 'no deployment'}")
        await pilot.pause()
        (HERE / "overview.svg").write_text(app.export_screenshot(title="shardscope"), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="pictures for the README, from a running daemon")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    asyncio.run(draw(given.run_dir, given.seconds))
