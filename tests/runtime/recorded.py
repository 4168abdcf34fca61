"""What the ranks of a real deployment told while it generated: every record, to the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import zmq
from collective_worlds import until

from runtime.llm import LLM
from telemetry.codec import decode_envelope
from telemetry.records import Envelope, Record, StepRecord

R = TypeVar("R", bound=Record)


@dataclass
class Recorded:
    """`llm` is closed: its shape, layout and counters can still be asked."""

    llm: LLM
    envelopes: list[Envelope] = field(default_factory=list)

    def all(self, kind: type[R]) -> list[R]:
        """In the order of arrival."""
        return [record for envelope in self.envelopes for record in envelope.records if isinstance(record, kind)]

    @property
    def steps(self) -> dict[int, list[StepRecord]]:
        """By rank."""
        found: dict[int, list[StepRecord]] = {rank: [] for rank in range(self.llm.spec.layout.world_size)}
        for step in self.all(StepRecord):
            found[step.rank].append(step)
        return found


def record(directory: Path, path: Path, drive: Callable[[LLM], None], **options: Any) -> Recorded:
    """Run `drive` on a model, then end it; nothing that a rank told may be missing."""
    with _hub(directory) as (endpoint, hub):
        with LLM(path, device="cpu", hub=endpoint, **options) as llm:
            recorded = Recorded(llm)
            drive(llm)

        def complete() -> bool:
            while hub.poll(0):
                recorded.envelopes.append(decode_envelope(hub.recv()))
            counts = {rank: len(steps) for rank, steps in recorded.steps.items()}
            asked = [engine.steps for engine in llm.engine.records()]
            size = llm.spec.layout.replica_size
            return all(count == asked[rank // size] for rank, count in counts.items())

        until(complete, "not every step was recorded")
        # what follows a rank's last step was sent before it ended, and so has come
        while hub.poll(200):
            recorded.envelopes.append(decode_envelope(hub.recv()))
    assert all(envelope.lost == 0 for envelope in recorded.envelopes)
    return recorded


@contextmanager
def _hub(directory: Path) -> Iterator[tuple[str, Any]]:
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        endpoint = f"ipc://{directory}/hub"
        socket.bind(endpoint)
        yield endpoint, socket
