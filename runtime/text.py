"""A sequence's tokens into the text that a client sees: whole characters, no end token, nothing after a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.checkpoint.tokenizer import Detokenizer, Tokenizer
from runtime.frontend import TextDelta
from runtime.protocol import FINISH_STOP, TokensOut
from runtime.sampling import SamplingParams


class TextStream:
    """The text of one sequence, as its tokens come.

    `add` each `TokensOut` in order until a delta has `finish`. When a stop string ended the text, `stopped` is true: the
    engine does not know and must be told to abort the request; what it still sends is not to be added.
    """

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams) -> None:
        self.stopped = False
        self._detokenizer = Detokenizer(tokenizer, params.skip_special_tokens, after_prompt=True)
        self._finder = StopFinder(params.stop, params.include_stop_str_in_output) if params.stop else None
        self._min_tokens = params.min_tokens
        self._show_stop = params.include_stop_str_in_output
        self._seen = 0  # tokens; counted for min_tokens alone, so only with stop strings

    def add(self, out: TokensOut) -> TextDelta:
        """What `out` adds. Tokens after the one that completes a stop string are dropped, with their logprobs."""
        tokens, finish, reason = out.tokens, out.finish, out.stop_token
        shown = tokens[:-1] if finish == FINISH_STOP and not self._show_stop else tokens
        if self._finder is None:
            text = self._detokenizer.add(shown)
            if finish is not None:
                text += self._detokenizer.flush()
            return TextDelta(text, tokens, out.logprobs, finish, reason, out.cached_tokens)

        text = ""
        for count, token in enumerate(shown, 1):
            self._seen += 1
            text += self._search(self._finder, self._detokenizer.add([token]))
            if self._finder.found is not None:
                tokens = tokens[:count]
                break
        if finish is not None and self._finder.found is None:
            text += self._search(self._finder, self._detokenizer.flush())
        if self._finder.found is not None:
            self.stopped = True
            finish, reason = FINISH_STOP, None
        elif finish is not None:
            text += self._finder.held
        logprobs = None if out.logprobs is None else out.logprobs[: len(tokens)]
        return TextDelta(text, tokens, logprobs, finish, self._finder.found or reason, out.cached_tokens)

    def _search(self, finder: StopFinder, text: str) -> str:
        """`text` as far as it may be shown. Up to min_tokens nothing can stop it."""
        return text if self._seen <= self._min_tokens else finder.add(text)


class StopFinder:
    """Finds the stop string that is complete first, in text that comes in pieces; the result does not depend on the pieces.

    `held` is text that may still turn out to be the beginning of a stop string. `found` is the stop string, once there is one.
    """

    def __init__(self, stops: Sequence[str], include: bool) -> None:
        """`include`: the stop string itself is text too."""
        self.found: str | None = None
        self.held = ""
        self._stops = tuple(stops)
        self._include = include
        self._longest = max(map(len, stops))

    def add(self, piece: str) -> str:
        """The text that is now certain to come before any stop string."""
        text = self.held + piece
        hits = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if hits:
            end, start, self.found = min(hits)
            self.held = ""
            return text[: end if self._include else start]
        certain = self._certain(text)
        self.held = text[certain:]
        return text[:certain]

    def _certain(self, text: str) -> int:
        """Where the longest end of `text` that begins a stop string starts."""
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stops):
                return start
        return len(text)
