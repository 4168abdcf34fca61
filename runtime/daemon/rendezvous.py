"""How the engine and the ranks of one generation find each other."""

from __future__ import annotations

from pathlib import Path

from runtime.checkpoint.config import ModelShape
from runtime.daemon.launcher import Endpoints
from runtime.engine.messages import Bind
from runtime.spec import DeploymentSpec


def endpoints_under(sockets: Path, world_size: int, telemetry: str) -> Endpoints:
    """Sockets in a directory of their own, one a generation; `telemetry`: the hub's, empty for none."""
    return Endpoints(
        plans=[f"ipc://{sockets / str(rank)}" for rank in range(world_size)],
        results=f"ipc://{sockets / 'r'}",
        telemetry=telemetry,
        store=str(sockets / "store"),
    )


def binding(spec: DeploymentSpec, shape: ModelShape, generation: int, endpoints: Endpoints) -> Bind:
    """What the engine is told of a generation before there is one."""
    return Bind(
        generation=generation,
        layout=spec.layout.asdict(),
        plans=endpoints.plans,
        results=endpoints.results,
        max_num_seqs=spec.max_num_seqs,
        max_num_batched_tokens=spec.max_num_batched_tokens,
        block_size=spec.block_size,
        slots=spec.slots,
        prefix_caching=spec.enable_prefix_caching,
        eos_token_ids=list(shape.eos_token_ids),
    )
