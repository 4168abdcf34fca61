"""What the telemetry itself lost, told apart by sender."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from msgspec import Struct

from telemetry.records import Envelope

MAX_SENDERS = 16_384
MAX_NAME = 256  # characters of a sender or its deployment


class SenderState(Struct, array_like=True):
    """One sender in its present life."""

    deployment: str
    sender: str
    boot: int
    next_seq: int
    gaps: int = 0  # messages that left the sender in this life and did not arrive
    refused: int = 0  # messages that its full socket refused in this life

    @property
    def lost(self) -> int:
        return self.gaps + self.refused


class Losses:
    """Messages lost = those that a sender says its full socket refused + gaps in its sequence numbers.

    A sender's first message ever sets where its sequence stands: what was before is not known to be lost.
    """

    def __init__(self) -> None:
        self._senders: dict[tuple[str, str], SenderState] = {}
        self._ended = 0  # lost in lives that are over

    @property
    def total(self) -> int:
        """Lost by all senders in all their lives."""
        return self._ended + sum(sender.lost for sender in self._senders.values())

    def of(self, deployment: str, sender: str) -> int:
        """Lost by one sender in its present life."""
        known = self._senders.get((deployment, sender))
        return 0 if known is None else known.lost

    def add(self, envelope: Envelope) -> None:
        """Take note of a message that arrived."""
        key = envelope.deployment, envelope.sender
        known = self._senders.get(key)
        if known is None or known.boot != envelope.boot:
            if known is not None:
                self._ended += known.lost
            elif len(self._senders) >= MAX_SENDERS or len(envelope.sender) > MAX_NAME or len(envelope.deployment) > MAX_NAME:
                return
            # A new life of a known sender begins at 0: what it sent before this message is lost.
            first_seq = envelope.seq if known is None else 0
            known = self._senders[key] = SenderState(*key, envelope.boot, first_seq)
        if envelope.seq >= known.next_seq:
            known.gaps += envelope.seq - known.next_seq
            known.next_seq = envelope.seq + 1
        known.refused = max(known.refused, envelope.lost)

    def forget(self, deployment: str) -> None:
        """Drop a deployment's senders, not what they lost."""
        for key in [key for key in self._senders if key[0] == deployment]:
            self._ended += self._senders.pop(key).lost

    def state(self) -> tuple[int, list[SenderState]]:
        """(lost in lives that are over, the senders)."""
        return self._ended, [copy(sender) for sender in self._senders.values()]

    def restore(self, ended: int, senders: Sequence[SenderState]) -> None:
        """Become what `state` was taken of."""
        self._ended = ended
        self._senders = {(sender.deployment, sender.sender): copy(sender) for sender in senders[:MAX_SENDERS]}
