"""What the supervisor tells an engine, and hears from it, beside the requests of `runtime.protocol`."""

from __future__ import annotations

from msgspec import Struct

ALIVE_S = 0.25


class EngineConfig(Struct, frozen=True):
    """An engine process' orders. It connects a DEALER to `control`, where the daemon has one bound."""

    deployment: str
    control: str
    telemetry: str  # the hub's PULL socket; empty: none
    log: str
    max_queue: int = 1024  # requests waiting; more are refused


class Attach(Struct, frozen=True, tag="attach"):
    """A generation of ranks is READY: schedule onto it."""

    generation: int
    kv_blocks: int
    max_model_len: int


class Bind(Struct, frozen=True, tag="bind"):
    """Open the sockets of the next generation: bind `results` (a PULL), connect a PUSH to each of `plans`, which ranks will bind.

    Answered by `Bound`.
    """

    generation: int
    layout: dict[str, int]
    plans: list[str]  # by rank
    results: str
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    slots: int  # micro-batches in flight
    prefix_caching: bool
    eos_token_ids: list[int]


class Pause(Struct, frozen=True, tag="pause"):
    """Plan nothing more. Answered by `Paused` once no step is out with the ranks; ended by `Detach` or `Stop`."""

    generation: int


class Detach(Struct, frozen=True, tag="detach"):
    """The generation is over. `error` empty: keep every request and resume them on the next one; else end them all with it."""

    generation: int
    error: str = ""


class Stop(Struct, frozen=True, tag="stop"):
    """Admit nothing more, finish what runs, then answer `Drained` and exit; `now`: at once, aborting all."""

    now: bool = False


class Bound(Struct, frozen=True, tag="bound"):
    generation: int


class Paused(Struct, frozen=True, tag="paused"):
    generation: int


class Replayed(Struct, frozen=True, tag="replayed"):
    """The generation serves: what outlived the one before is computed again, as far as there is room for it at once."""

    generation: int


class Drained(Struct, frozen=True, tag="drained"):
    pass


class Alive(Struct, frozen=True, tag="alive"):
    """The engine's loop goes round: sent every `ALIVE_S` seconds."""


FromEngine = Bound | Paused | Replayed | Drained | Alive  # beside `runtime.protocol.Outputs`
