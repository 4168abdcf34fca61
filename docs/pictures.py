"""Pictures of every screen for the README, drawn from the real runtime under light load and never from the scripted source.

python docs/pictures.py [NAME ...] [--seconds 30]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from textual.pilot import Pilot

from runtime.background import DaemonProcess
from runtime.checkpoint.synthetic import write_checkpoint
from runtime.spec import DeploymentSpec
from telemetry.endpoints import HubEndpoints
from tui import keys
from tui.app import Dashboard
from tui.source import LiveSource

SIZE = (120, 36)
LARGEST = 150_000  # bytes of a picture: a page of them must load
HERE = Path(__file__).parent
DENSE, MOE = "llama-44m", "qwen3-moe-32e"
LIMITS = {"device": "cpu", "max_model_len": 1024, "max_num_seqs": 16, "max_num_batched_tokens": 256}
CLIENTS = {DENSE: 6, MOE: 4}
_WORDS = ("rank", "that", "waits", "for", "another", "one", "is", "not", "slow", "it", "early", "and", "a", "bubble")


@dataclass(frozen=True)
class Pose:
    """What a screen shows in its picture: which deployment, after which keys, and after how many seconds on the screen."""

    deployment: str = DENSE
    keys: tuple[str, ...] = ()
    seconds: float = 4.0


POSES = {
    "pipeline": Pose(keys=("space", "minus", "left_square_bracket")),
    "collectives": Pose(seconds=6),
    "experts": Pose(MOE, ("n",)),
}


def main() -> None:
    names = [name for name, _key in keys.SCREENS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--seconds", type=float, default=30.0, help="of load before the first picture, for the histories")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shardscope-") as directory, world(Path(directory)) as run_dir:
        asyncio.run(draw(run_dir, given.names, given.seconds, given.out))


@contextmanager
def world(directory: Path) -> Iterator[Path]:
    """The run directory of a daemon that serves a dense model under tp2 pp2 and a mixture of experts under ep2."""
    models = {DENSE: directory / DENSE, MOE: directory / MOE}
    write_checkpoint(models[DENSE], "llama3", "demo")
    write_checkpoint(models[MOE], "qwen3_moe", "demo", num_experts=32, num_experts_per_tok=4, moe_intermediate_size=128)
    layouts: dict[str, dict[str, Any]] = {DENSE: {"tp": 2, "pp": 2}, MOE: {"ep": 2}}
    with DaemonProcess(directory / "run", "127.0.0.1:0") as daemon, daemon.client() as client:
        for name, layout in layouts.items():
            for _ in client.deploy(DeploymentSpec.model_validate({"model": models[name], "name": name, **LIMITS, **layout})):
                pass
        with load(client.status()[0].http):
            yield daemon.run_dir.path


@contextmanager
def load(address: str) -> Iterator[None]:
    """A few clients, each with one request after another."""
    ending = threading.Event()
    tasks = [
        threading.Thread(target=_client, args=(address, name, random.Random(number), ending.is_set))
        for name, count in CLIENTS.items()
        for number in range(count)
    ]
    for task in tasks:
        task.start()
    try:
        yield
    finally:
        ending.set()
        for task in tasks:
            task.join()


def _client(address: str, name: str, chance: random.Random, over: Callable[[], bool]) -> None:
    with httpx.Client(base_url=address, timeout=120) as http:
        while not over():
            prompt = " ".join(chance.choices(_WORDS, k=chance.randint(20, 200)))
            body = {"model": name, "prompt": prompt, "max_tokens": chance.randint(16, 96), "stream": True, "ignore_eos": True}
            with http.stream("POST", "/v1/completions", json=body) as answer:
                for _ in answer.iter_lines():
                    if over():
                        break


async def draw(run_dir: Path, names: list[str], seconds: float, out: Path) -> None:
    """Watch for so long that the histories have something to show, then save each screen."""
    app = Dashboard(LiveSource(HubEndpoints.under(run_dir)), run_dir=run_dir)
    async with app.run_test(size=SIZE) as pilot:
        await asyncio.sleep(seconds)
        snapshot, feed = app.session.look()
        if snapshot is None or len(snapshot.deployments) < len(CLIENTS):
            raise SystemExit(f"nothing to draw: {feed.problem or 'no deployment'}")
        for name in names:
            picture = await _picture(app, pilot, name, POSES.get(name, Pose()))
            path = out / f"{name}.svg"
            path.write_text(picture, encoding="utf-8")
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB{', too large' if path.stat().st_size > LARGEST else ''}")


async def _picture(app: Dashboard, pilot: Pilot[None], name: str, pose: Pose) -> str:
    app.session.set(deployment=pose.deployment)
    await app.run_action(f"app.switch_mode('{name}')")
    await asyncio.sleep(pose.seconds)
    for key in pose.keys:
        await pilot.press(key)
        await pilot.pause(0.3)
    picture = app.export_screenshot(title="shardscope")
    if app.session.look()[1].paused_s is not None:
        app.session.pause_or_resume()
    return picture


if __name__ == "__main__":
    main()
