"""Pictures of every screen for the README, drawn from the real runtime under light load and never from the scripted source.

python docs/pictures.py [NAME ...] [--seconds 60]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import threading
from collections.abc import Iterator
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
_WORDS = ("rank", "that", "waits", "for", "another", "one", "is", "not", "slow", "it", "early", "and", "a", "bubble")


@dataclass(frozen=True)
class Stage:
    """What is deployed, and how many clients talk to it."""

    name: str
    family: str
    layout: dict[str, int]
    clients: int
    config: dict[str, Any]


DENSE = Stage("llama-44m", "llama3", {"tp": 2, "pp": 2}, 6, {})
EXPERTS = {"num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 128}
MOE = Stage("qwen3-moe-32e", "qwen3_moe", {"ep": 2}, 4, EXPERTS)
LIMITS = {"device": "cpu", "max_model_len": 1024, "max_num_seqs": 16, "max_num_batched_tokens": 256}


@dataclass(frozen=True)
class Pose:
    """What a screen shows in its picture: of which stage, after which keys; seconds on the screen before and after them."""

    stage: Stage = DENSE
    keys: tuple[str, ...] = ()
    before: float = 4.0
    after: float = 1.0
    alone: bool = False  # while the clients rest


POSES = {  # of screens that show more after a key
    "pipeline": Pose(keys=("space", "minus", "left_square_bracket")),
    "experts": Pose(MOE, ("n",)),
    "deploy": Pose(keys=("right", "down", "left"), after=3.0),
    "stress": Pose(keys=("down", "left", "x"), before=10.0, after=24.0, alone=True),
    "profiles": Pose(keys=("home", "space", "down", "space", "v"), after=15.0),
}


def main() -> None:
    names = [name for name, _key in keys.SCREENS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--seconds", type=float, default=60.0, help="of load before the first picture, for the histories")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    for stage in (DENSE, MOE):
        mine = {name: pose for name in given.names if (pose := POSES.get(name, Pose())).stage is stage}
        if mine:
            with tempfile.TemporaryDirectory(prefix="shardscope-") as directory, world(stage, Path(directory)) as (run_dir, rest):
                asyncio.run(draw(run_dir, rest, mine, given.seconds, given.out))


@contextmanager
def world(stage: Stage, directory: Path) -> Iterator[tuple[Path, threading.Event]]:
    """The run directory of a daemon with that deployment under load, and what lets the clients rest."""
    model = directory / stage.name
    write_checkpoint(model, stage.family, "demo", **stage.config)
    spec = DeploymentSpec.model_validate({"model": model, "name": stage.name, **LIMITS, **stage.layout})
    with DaemonProcess(directory / "run", "127.0.0.1:0") as daemon, daemon.client() as client:
        for _ in client.deploy(spec):
            pass
        with load(client.status()[0].http, stage) as rest:
            yield daemon.run_dir.path, rest


@contextmanager
def load(address: str, stage: Stage) -> Iterator[threading.Event]:
    """A few clients, each with one request after another, but for the time that they rest."""
    ending, rest = threading.Event(), threading.Event()

    def client(number: int) -> None:
        chance = random.Random(number)
        with httpx.Client(base_url=address, timeout=120) as http:
            while not ending.wait(0.2 if rest.is_set() else 0.0):
                if not rest.is_set():
                    _ask(http, stage.name, chance, ending)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(stage.clients)]
    for each in clients:
        each.start()
    try:
        yield rest
    finally:
        ending.set()
        for each in clients:
            each.join()


def _ask(http: httpx.Client, name: str, chance: random.Random, ending: threading.Event) -> None:
    prompt = " ".join(chance.choices(_WORDS, k=chance.randint(20, 200)))
    body = {"model": name, "prompt": prompt, "max_tokens": chance.randint(16, 96), "stream": True, "ignore_eos": True}
    with http.stream("POST", "/v1/completions", json=body) as answer:
        for _ in answer.iter_lines():
            if ending.is_set():
                return


async def draw(run_dir: Path, rest: threading.Event, poses: dict[str, Pose], seconds: float, out: Path) -> None:
    """Watch for so long that the histories have something to show, then save each screen."""
    app = Dashboard(LiveSource(HubEndpoints.under(run_dir)), run_dir=run_dir)
    async with app.run_test(size=SIZE) as pilot:
        await asyncio.sleep(seconds)
        snapshot, feed = app.session.look()
        if snapshot is None or not snapshot.deployments:
            raise SystemExit(f"nothing to draw: {feed.problem or 'no deployment'}")
        for name, pose in poses.items():
            path = out / f"{name}.svg"
            if pose.alone:
                rest.set()
            path.write_text(await _picture(app, pilot, name, pose), encoding="utf-8")
            rest.clear()
            size = path.stat().st_size
            print(f"{path}: {size / 1000:.0f} kB{', too large' if size > LARGEST else ''}", flush=True)


async def _picture(app: Dashboard, pilot: Pilot[None], name: str, pose: Pose) -> str:
    await app.run_action(f"app.switch_mode('{name}')")
    await asyncio.sleep(pose.before)
    for key in pose.keys:
        await pilot.press(key)
        await pilot.pause(0.3)
    await asyncio.sleep(pose.after)
    picture = app.export_screenshot(title="shardscope")
    if app.session.look()[1].paused_s is not None:
        app.session.pause_or_resume()
    return picture


if __name__ == "__main__":
    main()
