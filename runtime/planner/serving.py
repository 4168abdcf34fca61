"""Steps become service: what a user waits for and what the devices yield, at a load. Times are seconds.

Continuous batching: in a steady state every step continues `n` requests and, n / OSL times, begins one. A prompt's work rides
in the same step, so it costs the difference that its tokens make: TPOT = T(n) + (n-1)/OSL D, tokens/s = n / (T(n) + n/OSL D).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from runtime.planner.cost import Setup, Terms, Work, bytes_per_token, prompt_dispatch, step
from runtime.planner.memory import Memory, rank_memory, sequences
from runtime.planner.parameters import scalar
from runtime.planner.sharding import Sharding


@dataclass(frozen=True)
class Hold:
    """How an engine holds prompts back while it decodes, so that several begin together."""

    steps: float  # of decoding at most
    enough: float = float("inf")  # prompts that end it before
    looks: bool = False  # it looks for prompts once in so many steps; else it counts from the first that waits

    def begun(self, rate: float) -> tuple[float, float]:
        """(steps that a prompt waits in the mean, prompts that begin together) when so many come in a step.

        The first of those that are held waits longest, the others half as long. Looks come whether a prompt waits or not.
        """
        steps = min(self.steps, (self.enough - 1) / rate)
        others = rate * steps
        return (steps / 2 if self.looks else steps * (1 + others / 2) / (1 + others)), 1 + others


@dataclass(frozen=True)
class Workload:
    """What is asked of a deployment. Neither concurrency nor rate: as much as the cache holds."""

    isl: float
    osl: float
    concurrency: float | None = None  # requests in flight, over all replicas
    rate: float | None = None  # requests a second, over all replicas
    requests: float | None = None  # of the whole run; None: without end
    burst: float = 0.0  # share of the requests that arrive all at once, when a closed loop begins
    hold: Hold | None = None
    max_batch: float = float("inf")  # requests in a replica's step
    balanced: bool = False  # attention groups begin their prompts together
    text: bool = True  # prompts come as text, and somebody tokenises them


@dataclass(frozen=True)
class Prediction:
    """One layout under one load. `tpot` leaves the first token out: (E2E - TTFT) / (OSL - 1); `tpot_e2e` is E2E / OSL."""

    setup: Setup
    workload: Workload
    ttft: float
    tpot: float
    tpot_e2e: float
    tokens_s: float
    batch: float  # requests in flight, over all replicas
    waiting: float  # requests that wait for room in the cache
    step: Terms  # one decode step of a token, its prompts' share left out
    prompt: Terms  # one prompt's pass
    prompts: float  # what the prompts that begin meanwhile add to a TPOT
    bubble: float  # share of time that a stage stands idle
    memory: Memory

    @property
    def sharding(self) -> Sharding:
        return self.setup.sharding

    @property
    def tokens_s_gpu(self) -> float:
        return self.tokens_s / self.sharding.ranks

    @property
    def tokens_s_user(self) -> float:
        return 1 / self.tpot

    @property
    def e2e(self) -> float:
        """Seconds of a whole request."""
        return self.tpot_e2e * self.workload.osl

    @property
    def limit(self) -> str:
        """The term that limits a step."""
        return self.step.limit

    @property
    def limiting(self) -> tuple[str, float]:
        """What limits the service, and its share: "prompts" of a TPOT where they take most of it, else a term of a step."""
        if self.prompts > self.tpot / 2:
            return "prompts", self.prompts / self.tpot
        return self.limit.replace("_", "-"), getattr(self.step, self.limit) / self.step.total

    @property
    def bytes_per_token(self) -> dict[str, float]:
        return bytes_per_token(self.setup)


def predict(setup: Setup, workload: Workload, memory: Memory | None = None) -> Prediction:
    """The layout's service under the workload. A rate becomes the concurrency that Little's law gives it.

    `memory` spares working out again what does not depend on the workload.
    """
    memory = memory or rank_memory(setup.model, setup.sharding, setup.gpu, setup.form, setup.engine)
    groups = setup.sharding.dp * setup.sharding.attention_dp
    room = sequences(setup.model, memory, setup.engine, workload.isl, workload.osl) * groups
    room = max(1.0, min(room, workload.max_batch * setup.sharding.dp))
    if workload.rate is not None:
        return _open_loop(setup, workload, memory, room)
    wanted = room if workload.concurrency is None else workload.concurrency
    if workload.requests is not None:
        wanted = min(wanted, workload.requests)
    return _closed_loop(setup, workload, memory, wanted, room)


@dataclass(frozen=True)
class _Cycle:
    """A replica in steady state with `n` requests."""

    n: float
    decode: float  # a token's share of a round without prompts
    prompts: float  # what the prompts begun in a round add to it
    step: Terms
    bubble: float
    group: float  # requests of one attention group in one micro-batch
    context: float
    busy: float  # ranks at work at once

    @property
    def round(self) -> float:
        return self.decode + self.prompts


def _cycle(setup: Setup, workload: Workload, n: float, replicas: float) -> _Cycle:
    """One round: every micro-batch passes every stage once. With p stages it takes max(a whole pass, m slowest stages)."""
    s, context = setup.sharding, workload.isl + workload.osl / 2
    batches = max(1.0, min(s.pp, n))
    group = max(1.0, n / batches / s.attention_dp)
    busy = s.stage_ranks * batches * replicas
    whole, stage = step(setup, Work(group, context, busy=busy))
    # prompt tokens of a mean step come as whole prompts, several together when many begin, in chunks when one is too long
    tokens = group * workload.isl / workload.osl
    together = max(1.0, _begun(workload, n)[1] / s.attention_dp)
    waiting = max(tokens, together * workload.isl)
    chunk = min(waiting, _room(setup, group, waiting))
    carrying = tokens / chunk  # share of micro-batches with a prompt on board
    # groups and stages step together, so one with a prompt holds up the rest: a round is late if any of them has one
    groups = 1 if workload.balanced else s.attention_dp
    late = 1 - (1 - carrying) ** (batches * groups) if carrying < 1 else carrying
    share = carrying / (1 - (1 - carrying) ** groups) if carrying < 1 else 1.0
    ahead = max(0.0, 1 - carrying) * stage.total
    longer = _pass(setup, Work(group, context, chunk, workload.isl / 2, share, busy), prompt_dispatch(setup, False) - ahead).stage
    if setup.engine.mixes:
        longer -= stage.total
    prompts = batches * longer * late
    decode = max(whole.total, batches * stage.total)
    worked = batches * (whole.total / s.pp + carrying * longer)
    bubble = max(0.0, 1 - worked / (decode + prompts)) if s.pp > 1 else 0.0
    return _Cycle(n, decode, prompts, whole, bubble, group, context, busy)


def _closed_loop(setup: Setup, workload: Workload, memory: Memory, wanted: float, room: float) -> Prediction:
    s = setup.sharding
    active = min(wanted, room)
    replicas = min(s.dp, max(1.0, active))
    cycle = _cycle(setup, workload, active / replicas, replicas)
    first = _begin(setup, workload, cycle, 1.0)
    burst = _begin(setup, workload, cycle, cycle.n, 0.5) if workload.burst else first
    if workload.requests is not None and workload.requests <= active:
        # requests that begin together and are the only ones see no other prompts once the last of them decodes
        prompts = workload.burst * burst.rest / max(1.0, workload.osl - 1)
    else:
        prompts = cycle.prompts * max(0.0, 1 - 1 / cycle.n)
    tpot = cycle.decode + prompts
    queue = _queue(setup, workload, cycle, first.time, burst.time) * setup.scale.queue
    ttft = first.time + queue + _intake(workload, active, cycle.round)
    residence = ttft + (workload.osl - 1) * tpot
    waiting = max(0.0, wanted - room)
    ttft += residence * waiting / active
    tokens_s = _yield(setup, workload, cycle, replicas)
    return Prediction(
        setup=setup,
        workload=workload,
        ttft=ttft,
        tpot=tpot,
        tpot_e2e=(ttft + (workload.osl - 1) * tpot) / workload.osl,
        tokens_s=tokens_s,
        batch=active,
        waiting=waiting,
        step=cycle.step,
        prompt=first.terms,
        prompts=prompts,
        bubble=cycle.bubble,
        memory=memory,
    )


def _yield(setup: Setup, workload: Workload, cycle: _Cycle, replicas: float) -> float:
    """Output tokens a second. A run of finite length goes in waves as large as the cache, the last one smaller."""
    steady = replicas * cycle.n / cycle.round
    if workload.requests is None:
        return steady
    each = workload.requests / replicas
    whole, rest = divmod(each, cycle.n)
    time = whole * cycle.round + (_cycle(setup, workload, rest, replicas).round if rest >= 1 else 0.0)
    return replicas * each / time if time else steady


class _Pass(NamedTuple):
    """A pass with prompts on board: its seconds through all stages, and through the slowest."""

    whole: Terms
    stage: float


def _room(setup: Setup, decodes: float, waiting: float) -> float:
    """Prompt tokens that a step may take of so many that wait, beside so many decodes."""
    steps = setup.engine.prompt_steps * setup.sharding.pp if setup.sharding.pp > 1 else 0
    most = setup.engine.max_batched_tokens - decodes
    return max(min(most, waiting / steps) if steps else most, scalar("least_chunk"))


def _pass(setup: Setup, work: Work, dispatch: float) -> _Pass:
    """A pass of prompts beside the running decodes, where the engine mixes both. A CPU has to launch its kernels meanwhile, which
    takes so long; engines begin it while the step before runs."""
    whole, stage = step(setup, work if setup.engine.mixes else work._replace(decodes=0.0))
    waited = max(0.0, dispatch - whole.total)
    return _Pass(whole._replace(launch=whole.launch + waited), max(stage.total, dispatch / setup.sharding.pp))


class _Begun(NamedTuple):
    """Of prompts that begin together: what a pass takes, the mean time until their first token, and how much longer than decodes
    alone the passes take that come after it."""

    terms: Terms
    time: float
    rest: float


def _begin(setup: Setup, workload: Workload, cycle: _Cycle, prompts: float, running: float = 1.0) -> _Begun:
    """So many prompts begin together on a replica, while this share of its other requests decodes.

    An attention group takes K = C / ISL of them in a pass, so they wait for (n / K + 1) / 2 passes in the mean, which follow each
    other as closely as the slowest stage lets them, and decode during (n / K - 1) / 2. A prompt longer than C goes in chunks.
    """
    groups, isl = setup.sharding.attention_dp, workload.isl
    decodes = running * cycle.group if cycle.n > 1 else 0.0
    each = max(1.0, prompts / groups)
    room = _room(setup, decodes, each * isl)
    together = max(1.0, room / isl)
    tokens = min(each, together) * min(isl, room)
    work = Work(decodes, cycle.context, tokens, isl / 2, min(1.0, prompts / groups), cycle.busy)
    found = _pass(setup, work, prompt_dispatch(setup, True))
    chunks = max(1.0, isl / room)
    later = chunks * max(0.0, each / together - 1) / 2
    time = found.whole.total + (chunks - 1 + later) * found.stage
    return _Begun(found.whole, time, later * max(0.0, found.stage - cycle.decode / setup.sharding.pp))


def _begun(workload: Workload, n: float) -> tuple[float, float]:
    """(decode steps that a prompt is held back, prompts that begin with it) among `n` requests; a lone one waits for none."""
    if workload.hold is None or n <= 1:
        return 0.0, 1.0
    return workload.hold.begun(n / workload.osl)


def _queue(setup: Setup, workload: Workload, cycle: _Cycle, alone: float, burst: float) -> float:
    """What a prompt waits in the mean, beyond the time that it would take `alone`; `burst`: what it takes when all begin at once.

    In a burst: for those before it, and for their text. Else: half the step under way and the next, which is scheduled already,
    then the prompts before it (M/D/1); or as long as the engine holds it back, and for those that begin with it.
    """
    if cycle.n <= 1:
        return 0.0
    steps, together = _begun(workload, cycle.n)
    if workload.hold is None:
        each = cycle.prompts * workload.osl / cycle.n  # of one prompt on the bottleneck
        busy = min(0.95, cycle.prompts / cycle.round)
        steady = 1.5 * cycle.decode + min(busy * each / 2 / (1 - busy), (cycle.n - 1) / 2 * each)
    else:
        # steps of those that look regularly have others' prompts on board, if the engine mixes; else a wait ends at the first
        each = cycle.round if workload.hold.looks and setup.engine.mixes else cycle.decode
        steady = cycle.decode + steps * each + _begin(setup, workload, cycle, together).time - alone
    text = _text(workload) * (cycle.n - 1) / 2
    return workload.burst * max(burst - alone, text) + (1 - workload.burst) * steady


def _text(workload: Workload) -> float:
    """Seconds of tokenising a prompt."""
    return scalar("intake_us") * 1e-6 * workload.isl if workload.text else 0.0


def _intake(workload: Workload, requests: float, seconds: float) -> float:
    """Tokenising a prompt, after those that came before it (M/D/1).

    Each of so many `requests` begins once in OSL rounds of so many `seconds`.
    """
    each = _text(workload)
    busy = min(0.95, each * requests / (workload.osl * seconds))
    steady = min(busy * each / 2 / (1 - busy), (requests - 1) / 2 * each) if requests > 1 else 0.0
    return each + (1 - workload.burst) * max(0.0, steady)


def _open_loop(setup: Setup, workload: Workload, memory: Memory, room: float) -> Prediction:
    """Concurrency = rate x residence, found by bisection: residence grows with concurrency. Beyond the room the queue grows."""
    low, high = 0.0, room
    rate = workload.rate or 0.0
    steady = replace(workload, rate=None)
    found = _closed_loop(setup, steady, memory, room, room)
    if rate * (found.ttft + (workload.osl - 1) * found.tpot) >= room:
        return replace(found, workload=workload, ttft=float("inf"), waiting=float("inf"))
    for _ in range(24):
        middle = (low + high) / 2
        found = _closed_loop(setup, steady, memory, max(middle, 1e-3), room)
        if rate * (found.ttft + (workload.osl - 1) * found.tpot) > middle:
            low = middle
        else:
            high = middle
    return replace(found, workload=workload, tokens_s=rate * workload.osl)


def amdahl(prediction: Prediction) -> tuple[float, float]:
    """What TP can gain at this batch: S(t) = 1 / ((1-f) + f/t) at the layout's t, and its bound 1 / (1-f).

    f is the share of a single rank's step that splits: weights, cache, products. Launches and all-reduces do not.
    """
    setup, s = prediction.setup, prediction.sharding
    single = replace(setup, sharding=replace(s, tp=1, ep=max(1, s.ep // s.tp) if s.ep > s.attention_dp else s.ep))
    group = max(1.0, prediction.batch / s.dp / max(1, s.pp) / s.attention_dp)
    context = prediction.workload.isl + prediction.workload.osl / 2
    one = step(single, Work(group, context, busy=single.sharding.stage_ranks)).whole
    split = one.weights + one.kv + one.compute
    serial = one.launch + one.all_to_all + one.hand_over + prediction.step.all_reduce
    share = split / (split + serial)
    return 1 / ((1 - share) + share / s.tp), 1 / (1 - share)
