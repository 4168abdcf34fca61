"""How many KV blocks a rank gets: arithmetic alone, for the rank that has its device and for whoever plans without one."""

from __future__ import annotations

CPU_CACHE_BYTES = 4 << 30  # of all ranks together, unless the deployment says otherwise
CPU_SHARE = 0.5  # of the memory that is free after loading, at most, all ranks together


def useful_blocks(max_num_seqs: int, max_model_len: int, block_size: int) -> int:
    """As many as that many sequences of that many tokens can fill, and one that no sequence ever gets."""
    return 1 + max_num_seqs * -(-max_model_len // block_size)


def cpu_cache_bytes(free: float, ranks: int) -> int:
    """Of one rank. `free`: bytes that the machine has left after loading."""
    return int(min(CPU_CACHE_BYTES, free * CPU_SHARE) // ranks)


def cuda_cache_bytes(total: float, share: float, peak: float) -> int:
    """Of one rank: the share of its device, less what it holds in its largest step without a cache."""
    return int(total * share - peak)
