"""How far a recording is, and how it ended: what its recorder says, and the daemon's clients read."""

from __future__ import annotations

from msgspec import Struct


class RecordingProgress(Struct, frozen=True):
    """A recording that is under way. `bytes`: written so far, to all of its files."""

    deployment: str
    path: str  # of the first file, once it is finished
    bytes: int
    seconds: float


class RecordingReport(Struct, frozen=True, tag="recorded"):
    """How a recording ended. `error`: why it ended by itself; then `unfinished` is what is left of the last file."""

    deployment: str
    files: list[str]
    messages: int
    bytes: int
    seconds: float
    dropped: int  # envelopes that a slow disk had no time for
    error: str = ""
    unfinished: str = ""

    @property
    def words(self) -> str:
        """One line, for whoever asked for it."""
        if self.error:
            return f"recording stopped: {self.error}; what is whole in {self.unfinished} can be recovered"
        lost = f", {self.dropped} lost to a slow disk" if self.dropped else ""
        return f"recorded {self.seconds:.0f} s, {self.messages} messages{lost}: {', '.join(self.files)}"
