"""Choosing tokens, for all rows of a step at once.

Every row's choice is a pure function of its logits, its parameters, its seed and the position: the uniform number behind
it is a hash of (seed, position). So a request gives the same text in any batch, after preemption and on rebuilt ranks.
"""

from __future__ import annotations

import numpy as np
import torch

from runtime.engine.plan import NewRow
from runtime.protocol import TokenLogprobs

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_COLDEST = 1e-30  # float32 divides by it; a lower temperature chooses the same tokens


def uniform(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """A number in (0, 1) for each (seed, position): splitmix64's finalizer (Steele et al., OOPSLA 2014), twice. float64."""
    with np.errstate(over="ignore"):
        x = _mix(seeds.astype(np.uint64) + _GOLDEN)
        x = _mix(x ^ (positions.astype(np.uint64) * _GOLDEN))
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


class _History:
    """A penalized row's tokens: prompt and output."""

    def __init__(self, new: NewRow) -> None:
        self.tokens = list(new.history)
        self.prompt_tokens = new.prompt_tokens


class Sampler:
    """The rows' parameters, as arrays; and the choice. `rows`: how many rows the engine may use."""

    def __init__(self, rows: int) -> None:
        self._temperature = np.ones(rows, dtype=np.float32)
        self._top_k = np.zeros(rows, dtype=np.int64)
        self._top_p = np.ones(rows, dtype=np.float32)
        self._min_p = np.zeros(rows, dtype=np.float32)
        self._seed = np.zeros(rows, dtype=np.int64)
        self._greedy = np.ones(rows, dtype=bool)
        self._special = np.zeros(rows, dtype=bool)  # needs a look of its own before or after the choice
        self._new: dict[int, NewRow] = {}
        self._history: dict[int, _History] = {}

    def begin(self, new: NewRow) -> None:
        """A row holds a new sequence."""
        p, row = new.params, new.row
        self._temperature[row] = max(p.temperature, _COLDEST)
        self._top_k[row] = max(p.top_k, 0)
        self._top_p[row] = p.top_p
        self._min_p[row] = p.min_p
        self._seed[row] = new.seed
        self._greedy[row] = p.greedy
        self._special[row] = p.penalized or p.logprobs is not None or bool(new.banned)
        self._new[row] = new
        self._history.pop(row, None)
        if p.penalized:
            self._history[row] = _History(new)

    def all_greedy(self, rows: np.ndarray) -> bool:
        """Whether the choice is the largest logit of each row and nothing else is asked."""
        return bool(self._greedy[rows].all()) and not bool(self._special[rows].any())

    def sample(
        self, logits: torch.Tensor, rows: np.ndarray, positions: np.ndarray
    ) -> tuple[torch.Tensor, dict[int, TokenLogprobs]]:
        """logits float32 [n, vocab]; rows, positions [n]: the position that the new token will take.

        Returns (tokens int64 [n], logprobs by index, for the rows that asked).
        """
        special = np.flatnonzero(self._special[rows]).tolist()
        original = logits
        if special:
            logits = logits.clone()
            for i in special:
                self._adjust(logits[i], int(rows[i]), int(positions[i]))
        greedy = self._greedy[rows]
        tokens = logits.argmax(-1)
        if not greedy.all():
            random = np.flatnonzero(~greedy)
            where = torch.from_numpy(random).to(logits.device)
            tokens[where] = self._random(logits[where], rows[random], positions[random])
        logprobs = {}
        for i in special:
            row = int(rows[i])
            token = int(tokens[i])
            if row in self._history:
                self._history[row].tokens.append(token)
            if (count := self._new[row].params.logprobs) is not None:
                logprobs[i] = _logprobs(original[i], token, count)
        return tokens, logprobs

    def _random(self, logits: torch.Tensor, rows: np.ndarray, positions: np.ndarray) -> torch.Tensor:
        """Temperature, min-p, top-k, top-p, then the inverse of the cumulative distribution at the row's number."""

        def column(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(logits.device).unsqueeze(1)

        # the largest becomes zero: no temperature makes it infinite
        probabilities = torch.softmax((logits - logits.amax(-1, keepdim=True)) / column(self._temperature[rows]), -1)
        ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
        min_p, top_k, top_p = self._min_p[rows], self._top_k[rows], self._top_p[rows]
        if min_p.any():
            ordered.masked_fill_(ordered < ordered[:, :1] * column(min_p), 0)
        if top_k.any():
            place = torch.arange(ordered.shape[1], device=ordered.device).unsqueeze(0)
            limit = np.where(top_k > 0, top_k, ordered.shape[1])
            ordered.masked_fill_(place >= column(limit), 0)
        if (top_p < 1).any():
            renormalized = ordered / ordered.sum(-1, keepdim=True)
            before = renormalized.cumsum(-1) - renormalized
            # rounding must neither cut nor change anything where top_p is off
            ordered.masked_fill_(before >= column(np.where(top_p < 1, top_p, 2.0).astype(np.float32)), 0)
        cumulative = ordered.double().cumsum(-1)
        target = column(uniform(self._seed[rows], positions)) * cumulative[:, -1:]
        place = torch.searchsorted(cumulative, target, right=True)
        kept = (ordered > 0).sum(-1, keepdim=True).clamp_(min=1)  # with all tokens banned, or top_p as good as 0, none is
        return tokens.gather(1, torch.minimum(place, kept - 1)).squeeze(1)

    def _adjust(self, logits: torch.Tensor, row: int, position: int) -> None:
        """Penalties and bans of one row, in place. logits [vocab]."""
        new, history = self._new[row], self._history.get(row)
        if new.banned and position < new.banned_until:
            known = [token for token in new.banned if 0 <= token < logits.shape[0]]
            logits[torch.tensor(known, dtype=torch.int64, device=logits.device)] = -torch.inf
        if history is None:
            return
        p, tokens = new.params, history.tokens
        if p.repetition_penalty != 1:
            seen = torch.tensor(tokens, device=logits.device).unique()
            values = logits[seen]
            logits[seen] = torch.where(values > 0, values / p.repetition_penalty, values * p.repetition_penalty)
        output = tokens[history.prompt_tokens :]
        if output and (p.presence_penalty or p.frequency_penalty):
            ids, counts = torch.tensor(output, device=logits.device).unique(return_counts=True)
            logits[ids] -= p.presence_penalty + p.frequency_penalty * counts
        if (n := p.no_repeat_ngram_size) and len(tokens) >= n:
            follows = _followers(tokens, n)
            if follows:
                logits[torch.tensor(follows, device=logits.device)] = -torch.inf


def _followers(tokens: list[int], n: int) -> list[int]:
    """The tokens that would complete an n-gram that `tokens` already holds."""
    prefix = tokens[len(tokens) - n + 1 :]
    return [tokens[i + n - 1] for i in range(len(tokens) - n + 1) if tokens[i : i + n - 1] == prefix]


def _logprobs(logits: torch.Tensor, token: int, count: int) -> TokenLogprobs:
    """Of the unmodified distribution."""
    logs = torch.log_softmax(logits, -1)
    chosen = logs[token]
    best = logs.topk(min(count, logs.shape[0]))
    top = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprobs(float(chosen), int((logs > chosen).sum()) + 1, top)
