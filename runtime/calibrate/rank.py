"""A rank that measures instead of serving: launched as ranks are, with their cores, their threads and their way to each other.

What it is to measure is in `RankConfig.plans`, a JSON file; what it found it writes beside `RankConfig.results`.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from runtime.calibrate import exchanges, parts, widths
from runtime.calibrate.order import Order
from runtime.calibrate.timing import Stopwatch
from runtime.checkpoint.config import read_shape
from runtime.layout import Layout
from runtime.parallel.mesh import DTYPES, Mesh, connect
from runtime.rank.board import Board, Phase, RankStatus
from runtime.rank.config import RankConfig
from runtime.rank.process import keep_freed_memory, settle_in


def main(config: RankConfig) -> None:
    settle_in(config)
    status = Board(config.board_fd, Layout(**config.layout).world_size).ranks[config.rank]
    status.phase = Phase.CONNECTING
    mesh = connect(config, read_shape(Path(config.model)), status)
    keep_freed_memory()
    order = Order.read(Path(config.plans))
    with torch.inference_mode():
        found = _measure(order, config, mesh, status)
    Path(f"{config.results}-{config.rank}.json").write_text(json.dumps(found), encoding="utf-8")
    status.phase = Phase.STOPPED


def _measure(order: Order, config: RankConfig, mesh: Mesh, status: RankStatus) -> dict[str, Any]:
    """With stages: the first works while the others wait for it, as they do for a single request; then what all of them do.
    Without: all at once."""
    device, dtype = torch.device(config.device), DTYPES[config.dtype]

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    # what ranks do at once they share memory for: none may be done while another still looks
    there = parts.beyond_caches(device) if "parts" in order.measure else None
    chill = there.sum if there is not None and device.type == "cpu" else lambda: None

    def meet(number: int) -> int:
        return int(mesh.tp.broadcast(torch.tensor([number], device=device)).item())

    watch = Stopwatch(order.window_s, settle, order.until, meet, chill)
    found: dict[str, Any] = {"threads": config.threads}
    if there is not None and mesh.first_stage:
        mesh.tp.barrier()
        found["read"], found["copy"] = parts.bandwidth(watch, there)
        found |= parts.layers(watch, config, status, captured=mesh.layout.world_size == 1)
        found |= parts.attention(watch, config, status, found["pass"][-1][1], found["layer"][-1][1])
        formats = ("bf16", "fp32") if "fp32" in order.measure else ("bf16",)
        if device.type == "cpu":
            found["products"], found["calls"] = widths.products(watch, config, status, found, formats)
        else:  # whole layers would tell how fast they are launched
            measured = {name: parts.products(watch, parts.DTYPES[name], device) for name in formats}
            found["products"] = {name: each for name, (each, _) in measured.items()}
            found["calls"] = measured["bf16"][1]
        if device.type == "cuda":
            found["layer_of_many"] = parts.layers(watch, config, status, captured=False)["layer"]
    if "exchanges" in order.measure and mesh.tp.size > 1 and mesh.first_stage:
        chain = exchanges.Chain(mesh.tp, dtype, device, order.window_s)
        found["all_reduce"] = exchanges.all_reduces(chain)
        found["all_to_all"] = exchanges.all_to_alls(chain)
        found["laps"] = chain.laps(partial(mesh.tp.all_reduce, chain.buffer(exchanges.SIZES[0])))
    if mesh.layout.pp > 1:
        _wake(mesh, device)
    if "hand_over" in order.measure and mesh.at.pp < 2:
        found["hand_over"] = exchanges.hand_overs(exchanges.Chain(mesh.tp, dtype, device, order.window_s), mesh)
    if "crowd" in order.measure:
        chain = exchanges.Chain(mesh.tp, dtype, device, order.window_s)
        found["laps_together"] = chain.laps(partial(mesh.tp.all_reduce, chain.buffer(exchanges.SIZES[0])))
    settle()
    return found


def _wake(mesh: Mesh, device: torch.device) -> None:
    """A token through all stages."""
    token = torch.zeros(1, device=device)
    if not mesh.first_stage:
        mesh.pp.receive(token, mesh.at.pp - 1)
    if not mesh.last_stage:
        mesh.pp.send(token, mesh.at.pp + 1)
