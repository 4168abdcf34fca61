"""The life of a rank: join the others, load the shard, size the cache, then obey one plan after another."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from pathlib import Path

import torch
import zmq

from runtime.checkpoint.config import ModelShape, read_shape
from runtime.checkpoint.weights import Checkpoint
from runtime.engine.plan import Halt, MemberPlan, StepPlan, StepResult, decode_plan, encode, pack
from runtime.layout import Layout
from runtime.model.decoder import Stage
from runtime.model.kernels import compile_kernels
from runtime.parallel.mesh import DTYPES, Mesh, connect
from runtime.rank.board import Board, Phase, RankStatus, field
from runtime.rank.capacity import kv_blocks_possible
from runtime.rank.config import RankConfig
from runtime.rank.executor import Executor
from runtime.rank.faults import commit
from runtime.rank.graphs import CudaCapture
from runtime.rank.memory import memory_probe
from runtime.rank.recorder import Recorder, StepRecorder
from runtime.rank.timeline import NoTimeline
from telemetry.emitter import Emitter

_PR_SET_TIMERSLACK = 29
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_POLL_S = 0.001
_UNSETTLED_MS = 1  # how often to look whether the device is through
_GATHER_MS = 10  # a record waits no longer for the next one
_REST_MS = 100  # without a plan for so long, there is time to tell what a second would have been waited for
_PLANS, _STEPS, _PROGRESS, _FAULT = field("plans"), field("steps"), field("progress"), field("fault")


def prepare(config: RankConfig) -> None:
    """What ranks of this kind can inherit from the process that forks them."""
    if config.device == "cpu":
        compile_kernels(read_shape(Path(config.model)), DTYPES[config.dtype], config.layout["tp"])


def main(config: RankConfig) -> None:
    """Run until the engine halts us. Any exception is the caller's to write on the board."""
    settle_in(config)
    status = Board(config.board_fd, Layout(**config.layout).world_size).ranks[config.rank]
    status.pid = os.getpid()
    status.phase = Phase.CONNECTING
    shape = read_shape(Path(config.model))
    mesh = connect(config, shape, status)
    stage = _load(config, shape, mesh, status)
    memory = memory_probe(config, stage.device, status.weights_bytes)
    executor = _with_cache(config, mesh, stage, status)
    status.loaded_ns = time.perf_counter_ns()
    keep_freed_memory()
    status.phase = Phase.WARMING
    commit(status)
    _warm_up(executor, config.max_num_batched_tokens)
    with Emitter(config.telemetry, config.deployment, f"rank:{config.rank}") as emitter:
        if config.telemetry:
            recorder: Recorder = StepRecorder(config, executor, status.kv_blocks, memory, emitter)
        else:
            recorder, executor.timeline = Recorder(), NoTimeline()
        try:
            _obey(config, executor, recorder, status)
        finally:
            recorder.tell()
        recorder.finish()
    status.phase = Phase.STOPPED


def settle_in(config: RankConfig) -> None:
    if config.cpus:
        os.sched_setaffinity(0, config.cpus)
    torch.set_num_threads(config.threads)
    if config.device.startswith("cuda"):
        torch.cuda.set_device(torch.device(config.device))
    # a wait of 50 us must not become one of 100: the kernel may round a sleep up by its slack, 50 us unless told
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)


def keep_freed_memory() -> None:
    """Activations of some megabytes come and go in every layer: kept, they cost no page faults.

    Not while loading: its leavings would stay.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def _load(config: RankConfig, shape: ModelShape, mesh: Mesh, status: RankStatus) -> Stage:
    status.phase = Phase.LOADING
    status.to_load = _shard_bytes(shape, mesh)

    def on_bytes(count: int) -> None:
        status.loaded += count
        status.progress += 1

    checkpoint = Checkpoint(Path(config.model))
    dtype, device = DTYPES[config.dtype], torch.device(config.device)
    stage = Stage(checkpoint, shape, mesh, dtype, device, config.max_model_len, on_bytes)
    status.weights_bytes = status.loaded * dtype.itemsize // DTYPES[shape.dtype].itemsize
    return stage


def _shard_bytes(shape: ModelShape, mesh: Mesh) -> int:
    """About how much of the checkpoint this rank will read."""
    layers = sum(shape.layer_parameters(layer) for layer in mesh.layers) / mesh.tp.size
    ends = (mesh.first_stage + mesh.last_stage) * shape.vocab_size * shape.hidden_size / mesh.tp.size
    if shape.num_experts:
        layers *= len(mesh.experts) / shape.num_experts
    return int((layers + ends) * DTYPES[shape.dtype].itemsize)


def _with_cache(config: RankConfig, mesh: Mesh, stage: Stage, status: RankStatus) -> Executor:
    """Say how many blocks would fit, wait for the launcher's word, and take that many."""

    capture = CudaCapture() if stage.device.type == "cuda" and not config.enforce_eager else None

    def executor(blocks: int) -> Executor:
        return Executor(stage, mesh, config.max_num_seqs, config.max_model_len, config.block_size, blocks, capture)

    def peak_bytes() -> int:
        blocks = 2 + config.max_num_batched_tokens // config.block_size
        _warm_up(executor(blocks), config.max_num_batched_tokens)
        stage.caches.clear()
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.max_memory_reserved() - blocks * config.block_size * stage.kv_bytes_per_token

    status.kv_blocks_possible = max(0, kv_blocks_possible(config, stage, peak_bytes))
    status.phase = Phase.WAITING_KV
    while not status.kv_blocks:
        time.sleep(_POLL_S)
        status.progress += 1
    status.kv_bytes = status.kv_blocks * config.block_size * stage.kv_bytes_per_token
    return executor(status.kv_blocks)


def _warm_up(executor: Executor, tokens: int) -> None:
    """One decode step and one prefill through block 0, which no sequence ever owns: every rank meets every other once."""
    for count in (1, min(tokens, 16)):
        plan = MemberPlan(pack([0]), pack([0]), pack([count]), pack([0] * count), wanted=pack([0]))
        executor.run(plan)
    if executor.stage.device.type == "cuda":
        torch.cuda.synchronize()
    executor.timeline.take()
    for axis in executor.mesh.axes:
        axis.take(axis.reached(axis.mark()))
        axis.take_tallies()


def _obey(config: RankConfig, executor: Executor, recorder: Recorder, status: RankStatus) -> None:
    context = zmq.Context()
    plans, results = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    plans.bind(config.plans)
    results.connect(config.results)
    at = executor.mesh.at
    words = status.words
    # what is loaded lives as long as we do: the collector need not look at it at every step
    gc.collect()
    gc.freeze()
    status.phase = Phase.READY
    while True:
        plan, idle = _next_plan(plans, recorder)
        if isinstance(plan, Halt):
            break
        recorder.began(idle)
        words[_PLANS] += 1
        words[_PROGRESS] += 1
        if words[_FAULT]:
            commit(status, executor)
        mine = plan.members[at.ep]
        sampled = executor.run(mine)
        if sampled.tokens is not None:
            result = StepResult(at.dp, at.ep, plan.step, pack(sampled.tokens), sampled.logprobs)
            results.send(encode(result))
        words[_STEPS] += 1
        words[_PROGRESS] += 1
        recorder.ended(plan.step, plan.slot, mine, len(mine.rows) // 4, len(mine.tokens) // 4)
    context.destroy(linger=0)


def _next_plan(plans: zmq.Socket[bytes], recorder: Recorder) -> tuple[StepPlan | Halt, bool]:
    """The next plan, and whether it had to be waited for."""
    try:
        return decode_plan(plans.recv(zmq.NOBLOCK)), False
    except zmq.Again:
        pass
    while not recorder.settle():
        if plans.poll(_UNSETTLED_MS):
            return decode_plan(plans.recv()), True
    if not plans.poll(_GATHER_MS):
        recorder.tell()
        if not plans.poll(_REST_MS):
            recorder.rest()
    return decode_plan(plans.recv()), True
