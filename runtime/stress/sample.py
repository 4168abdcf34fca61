"""One request of the load, as its client saw it."""

from __future__ import annotations

from dataclasses import dataclass, field

INTERRUPTED = "interrupted"  # by our user: no fault of the server's
UNFINISHED = "unfinished"  # no answer yet when we stopped waiting: it is the server's


@dataclass(slots=True)
class Sample:
    """Times in seconds from the load's start.

    `intended`: when the schedule wanted it sent; latency counts from there, or a server that stalls would delay the requests that
    would have seen it (coordinated omission). `events`: when each piece of the answer came. `output_tokens`: as the server
    counted them, at the end. `error`: its kind, None for an answer that is whole.
    """

    index: int
    intended: float
    sent: float
    prompt_tokens: int
    asked_tokens: int
    events: list[float] = field(default_factory=list)
    output_tokens: int = 0
    cached_tokens: int = 0
    ended: float | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.ended is not None and self.error is None

    @property
    def lag_s(self) -> float:
        """Actual send - intended send."""
        return self.sent - self.intended

    @property
    def ttft_s(self) -> float | None:
        """First event - intended send."""
        return self.events[0] - self.intended if self.events else None

    @property
    def e2e_s(self) -> float | None:
        """Last event - intended send."""
        return self.events[-1] - self.intended if self.events else None

    @property
    def tpot_s(self) -> float | None:
        """(E2E - TTFT) / (output tokens - 1), None below two tokens."""
        return (self.events[-1] - self.events[0]) / (self.output_tokens - 1) if self.events and self.output_tokens > 1 else None

    @property
    def gaps_s(self) -> list[float]:
        """Between one event and the next."""
        return [later - earlier for earlier, later in zip(self.events, self.events[1:], strict=False)]
