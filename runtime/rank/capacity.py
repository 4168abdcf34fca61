"""How many KV blocks a rank can hold. The launcher takes the minimum over ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch

from runtime.layout import Layout
from runtime.model.decoder import Stage
from runtime.rank.config import RankConfig
from telemetry.cgroup import Cgroup

CPU_CACHE_BYTES = 4 << 30  # of all ranks together, unless the deployment says otherwise
CPU_SHARE = 0.5  # of the memory that is free after loading, at most, all ranks together


def kv_blocks_possible(config: RankConfig, stage: Stage, peak_bytes: Callable[[], int]) -> int:
    """Blocks that fit this rank, one of them never used by a sequence. `peak_bytes` runs the largest step on a CUDA device.

    On CPU no more than `max_num_seqs` sequences of `max_model_len` can use; on CUDA what the memory share leaves.
    """
    block_bytes = stage.kv_bytes_per_token * config.block_size
    useful = 1 + config.max_num_seqs * -(-config.max_model_len // config.block_size)
    if config.kv_cache_bytes is not None:
        return min(useful, config.kv_cache_bytes // block_bytes)
    if stage.device.type == "cuda":
        total = torch.cuda.get_device_properties(stage.device).total_memory
        return int((total * config.gpu_memory_utilization - peak_bytes()) // block_bytes)
    free = Cgroup().memory_available()
    world_size = Layout(**config.layout).world_size
    return min(useful, int(min(CPU_CACHE_BYTES, free * CPU_SHARE) // world_size // block_bytes))
