"""Launches ranks that measure, under each layout that tells something, and collects what they found. Torch-free."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.calibrate.order import Order
from runtime.checkpoint.config import parse_shape
from runtime.daemon.launcher import Endpoints, RankGroup
from runtime.layout import Layout
from runtime.rank.nursery import Zygote
from runtime.spec import DeploymentSpec

RANK_MODULE = "runtime.calibrate.rank"
LAST_S = 120.0  # that a world may take
MOST_RANKS = 8
_POLL_S = 0.02

# a model that never is: what matters is how large its ranks' messages may become, and that every layout divides it
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 4096,
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "vocab_size": 4096,
    "max_position_embeddings": 4096,
    "dtype": "bfloat16",
}


class MeasureFailed(RuntimeError):
    """A rank could not measure; the message says why."""


@dataclass(frozen=True)
class World:
    """A layout, and what to measure under it."""

    layout: Layout
    measure: tuple[str, ...]

    @property
    def again(self) -> World:
        """What to measure under it another time: not how products do that few models ask for."""
        return World(self.layout, tuple(word for word in self.measure if word != "fp32"))


def worlds(devices: int, shared: bool) -> list[World]:
    """For so many cores that all ranks share, or devices of which each rank has one."""
    counts = [n for n in (1, 2, 4, 8) if n <= min(devices, MOST_RANKS)]
    if not shared:
        found = [World(Layout(), ("parts", "fp32"))]
        found += [World(Layout(tp=n), ("exchanges",)) for n in counts if n > 1]
        return found + [World(Layout(pp=2), ("hand_over",))] * (devices > 1)
    found = [World(Layout(tp=n), ("parts", "fp32", "exchanges") if n > 1 else ("parts", "fp32")) for n in counts]
    found += [World(Layout(pp=n), ("parts", "fp32", "hand_over")) for n in counts if n > 1]
    if devices <= MOST_RANKS // 2:
        found.append(World(Layout(tp=max(2, devices), pp=2), ("exchanges", "crowd")))
    if devices == 1:
        found.append(World(Layout(pp=2), ("hand_over",)))
    return found


def measure(world: World, device: str, window_s: float, until: float, zygote: Zygote) -> list[dict[str, Any]]:
    """What each rank found, by rank; `window_s` and `until` as in `Order`. Raises MeasureFailed and LaunchRefused."""
    with tempfile.TemporaryDirectory(prefix="shardscope-calibrate-") as scratch:
        place = Path(scratch)
        (place / "config.json").write_text(json.dumps(_CONFIG), encoding="utf-8")
        Order(list(world.measure), window_s, until).write(place / "order.json")
        ranks = world.layout.world_size
        asked = {"model": place, "name": "calibrate", "device": device, "dtype": "bfloat16", **world.layout.asdict()}
        spec = DeploymentSpec.model_validate(asked)
        endpoints = Endpoints(plans=[str(place / "order.json")] * ranks, results=str(place / "found"), store=str(place / "store"))
        group = RankGroup.launch(spec, parse_shape(_CONFIG), 1, endpoints, None, zygote)
        try:
            _await(group, world)
        finally:
            group.kill()
        return [json.loads((place / f"found-{rank}.json").read_text(encoding="utf-8")) for rank in range(ranks)]


def _await(group: RankGroup, world: World) -> None:
    group.leave()
    end = time.monotonic() + LAST_S
    while not group.dead:
        group.poll()
        if group.failure is not None:
            raise MeasureFailed(f"measuring under {world.layout}: {group.failure}")
        if time.monotonic() > end:
            raise MeasureFailed(f"measuring under {world.layout} took longer than {LAST_S:.0f} s")
        time.sleep(_POLL_S)
