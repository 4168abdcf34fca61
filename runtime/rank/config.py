"""Everything a rank process is told at its birth."""

from __future__ import annotations

from msgspec import Struct


class RankConfig(Struct, frozen=True):
    """One rank's orders. File descriptors are inherited ones, valid in the rank's process.

    `plans`: where the rank binds a PULL; `results`: where it connects a PUSH to the engine; `telemetry`: the hub's socket, empty
    for none.
    """

    deployment: str
    generation: int
    rank: int
    layout: dict[str, int]
    model: str
    device: str  # "cpu" or "cuda:N"
    dtype: str  # settled: "float32", "bfloat16", "float16"
    transport: str  # settled: "shm", "gloo", "nccl"
    threads: int
    cpus: tuple[int, ...]  # to pin to; empty: not pinned
    spin: bool  # a core for each rank: waiting may spin before it yields
    board_fd: int
    segment_fd: int  # shared memory of the collectives; -1 unless transport is "shm"
    store: str  # path of torch.distributed's file store; empty for "shm"
    plans: str
    results: str
    telemetry: str
    log: str  # where stdout and stderr go; empty: inherited
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int  # an upper bound: the KV cache may turn out to hold less
    block_size: int
    kv_cache_bytes: int | None
    gpu_memory_utilization: float
    enforce_eager: bool
    emulated: bool
