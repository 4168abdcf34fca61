"""What a row may sample and how likely, written slowly from TensorRT-LLM's definition, one row and one token at a time.

Greedy iff temperature = 0, top_p = 0, top_k = 1 or min_p = 1. Else:
penalties -> temperature -> min-p -> top-k -> renormalise -> top-p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from runtime.engine.plan import NewRow
from runtime.sampling import SamplingParams

EOS = (3,)


def penalized(
    logits: Sequence[float], p: SamplingParams, prompt: Sequence[int], output: Sequence[int], eos: Sequence[int]
) -> list[float]:
    """The logits after bans and penalties."""
    out = list(logits)
    if len(output) < p.min_tokens:
        for token in (*p.stop_token_ids, *(() if p.ignore_eos else eos)):
            out[token] = -math.inf
    seen = [*prompt, *output]
    for token in set(seen):
        if out[token] > 0:
            out[token] /= p.repetition_penalty
        else:
            out[token] *= p.repetition_penalty
    for token in set(output):
        out[token] -= p.presence_penalty + p.frequency_penalty * list(output).count(token)
    n = p.no_repeat_ngram_size
    if n:
        ngrams = {tuple(seen[i : i + n]) for i in range(len(seen) - n + 1)}
        end = seen[len(seen) - (n - 1) :] if n > 1 else []
        for token in range(len(out)):
            if len(seen) >= n - 1 and (*end, token) in ngrams:
                out[token] = -math.inf
    return out


def distribution(logits: Sequence[float], p: SamplingParams) -> dict[int, float]:
    """Token -> probability, of penalized logits; tokens that cannot come are left out."""
    if p.temperature == 0 or p.top_p == 0 or p.top_k == 1 or p.min_p == 1:
        return {max(range(len(logits)), key=lambda token: (logits[token], -token)): 1.0}
    highest = max(logits)
    weights = {t: math.exp((x - highest) / p.temperature) for t, x in enumerate(logits) if x > -math.inf}
    most = max(weights.values())
    weights = {t: w for t, w in weights.items() if w >= p.min_p * most and w > 0}
    order = sorted(weights, key=lambda t: (-weights[t], t))
    if p.top_k > 0:
        order = order[: p.top_k]
    total = sum(weights[t] for t in order)
    kept, before = {}, 0.0
    for token in order:
        if before >= p.top_p and kept:
            break
        kept[token] = weights[token]
        before += weights[token] / total
    total = sum(kept.values())
    return {token: weight / total for token, weight in kept.items()}


def new_row(
    row: int, p: SamplingParams, seed: int, prompt: Sequence[int], output: Sequence[int] = (), eos: Sequence[int] = EOS
) -> NewRow:
    """What the engine would tell a rank of such a request."""
    banned = [*p.stop_token_ids, *eos] if p.min_tokens > len(output) else []
    return NewRow(row, seed, p, len(prompt), [*prompt, *output], banned, len(prompt) + p.min_tokens)
