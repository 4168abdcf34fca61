"""The engine's sockets: a plan sent to a rank that is not there yet waits for it; one sent to a dead rank holds nobody up."""

from __future__ import annotations

from pathlib import Path

import zmq

from runtime.engine.messages import Bind
from runtime.engine.plan import MemberPlan, StepPlan, decode_plan
from runtime.engine.ranks import RankSockets


def bind(tmp_path: Path) -> Bind:
    plans = [f"ipc://{tmp_path / 'p0'}", f"ipc://{tmp_path / 'p1'}"]
    limits = {"max_num_seqs": 1, "max_num_batched_tokens": 1, "block_size": 16, "slots": 1, "prefix_caching": False}
    return Bind(1, {"tp": 2}, plans, f"ipc://{tmp_path / 'r'}", eos_token_ids=[], **limits)


def test_plans_wait_for_a_rank_that_comes_late_and_never_for_a_dead_one(tmp_path: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets = RankSockets(context, bind(tmp_path))
    sockets.send(0, StepPlan(1, 0, [MemberPlan()]))
    rank = context.socket(zmq.PULL)
    rank.bind(f"ipc://{tmp_path / 'p0'}")
    assert rank.poll(5000)
    assert decode_plan(rank.recv()) == StepPlan(1, 0, [MemberPlan()])
    rank.close(linger=0)
    for step in range(2, 1000):
        sockets.send(0, StepPlan(step, 0, [MemberPlan()]))
    sockets.close()
    context.destroy(linger=0)
