"""How many KV blocks a rank can hold. The launcher takes the minimum over ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch

from runtime.kv_capacity import cpu_cache_bytes, cuda_cache_bytes, useful_blocks
from runtime.layout import Layout
from runtime.model.decoder import Stage
from runtime.rank.config import RankConfig
from telemetry.cgroup import Cgroup


def kv_blocks_possible(config: RankConfig, stage: Stage, peak_bytes: Callable[[], int]) -> int:
    """Blocks that fit this rank, one of them never used by a sequence. `peak_bytes` runs the largest step on a CUDA device.

    On CPU no more than `max_num_seqs` sequences of `max_model_len` can use; on CUDA what the memory share leaves.
    """
    block_bytes = stage.kv_bytes_per_token * config.block_size
    useful = useful_blocks(config.max_num_seqs, config.max_model_len, config.block_size)
    if config.kv_cache_bytes is not None:
        return min(useful, config.kv_cache_bytes // block_bytes)
    if stage.device.type == "cuda":
        total = torch.cuda.get_device_properties(stage.device).total_memory
        return cuda_cache_bytes(total, config.gpu_memory_utilization, peak_bytes()) // block_bytes
    world_size = Layout(**config.layout).world_size
    return min(useful, cpu_cache_bytes(Cgroup().memory_available(), world_size) // block_bytes)
