"""A rank without a model: goes through the phases, then obeys the `fault` word of its board. Imported by a real zygote."""

import time

from runtime.layout import AXES, Layout
from runtime.rank.board import Board, Op, Phase
from runtime.rank.config import RankConfig

RAISE, HANG_IN_COLLECTIVE, WORK, LEAVE, HANG_IN_COMPUTE = range(1, 6)
KV_BLOCKS = 100


def main(config: RankConfig) -> None:
    layout = Layout(**config.layout)
    status = Board(config.board_fd, layout.world_size).ranks[config.rank]
    status.phase = Phase.LOADING
    status.to_load, status.loaded, status.weights_bytes = 100, 100, 100
    status.kv_blocks_possible = KV_BLOCKS - config.rank
    status.phase = Phase.WAITING_KV
    while not status.kv_blocks:
        time.sleep(0.002)
    status.phase = Phase.READY
    while True:
        fault = status.fault
        if fault:
            status.fault = 0
        if fault == RAISE:
            raise RuntimeError(f"fault on rank {config.rank}")
        if fault == HANG_IN_COLLECTIVE:
            status.plans += 1
            status.op, status.op_axis, status.op_done = Op.ALL_REDUCE, AXES.index("tp"), 0
            status.op_seq += 1
        if fault == HANG_IN_COMPUTE:
            status.plans += 1
        if fault == WORK:
            status.plans += 1
            status.steps += 1
            status.progress += 1
            status.op, status.op_axis, status.op_done = Op.ALL_REDUCE, AXES.index("tp"), 1
            status.op_seq += 1
        if fault == LEAVE:
            return
        time.sleep(0.002)
