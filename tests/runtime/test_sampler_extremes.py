"""The sampler at the ends of what may be asked: nothing that a client sends may end a rank or touch a neighbour's row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference_sampler import new_row

from runtime.rank.sampler import Sampler
from runtime.sampling import SamplingParams

INF = math.inf
EXTREMES = [
    ("one possible token", [-INF, -INF, 0.5, -INF], SamplingParams(), {2}),
    ("one possible token, large top-k", [-INF, -INF, 0.5, -INF], SamplingParams(top_k=3, top_p=0.9, min_p=0.1), {2}),
    ("cold", [1.0, 1.1, 1.0, 0.9], SamplingParams(temperature=1e-3), {1}),
    ("colder than float32 can divide by", [90.0, 91.0, 1.0, 0.9], SamplingParams(temperature=1e-38), {1}),
    ("colder than float32 can hold", [1.0, 1.1, 1.0, 0.9], SamplingParams(temperature=1e-60), {1}),
    ("hot", [5.0, -5.0, 0.0, 1.0], SamplingParams(temperature=100), {0, 1, 2, 3}),
    ("top-k beyond the vocabulary", [0.0, 0.0, 0.0, 0.0], SamplingParams(top_k=1 << 40), {0, 1, 2, 3}),
    ("min-p 1", [1.0, 1.1, 1.0, 0.9], SamplingParams(min_p=1), {1}),
    ("top-p below float32's smallest", [1.0, 1.1, 1.0, 0.9], SamplingParams(top_p=1e-60), {1}),
    ("min-p below float32's smallest", [0.0, 0.0, 0.0, -200.0], SamplingParams(min_p=1e-60), {0, 1, 2}),
    ("far apart", [3e38, -3e38, 1.0, 0.0], SamplingParams(), {0}),
    (
        "ban beyond the vocabulary",
        [0.0, 9.0, 0.0, 0.0],
        SamplingParams(min_tokens=2, stop_token_ids=(1, 4, 1 << 30, -1)),
        {0, 2, 3},
    ),
]


@pytest.mark.parametrize(("logits", "p", "possible"), [case[1:] for case in EXTREMES], ids=[case[0] for case in EXTREMES])
def test_extreme_values(logits: list[float], p: SamplingParams, possible: set[int]) -> None:
    made = Sampler(300)
    for row in range(300):
        made.begin(new_row(row, p, row, [1], eos=()))
    tokens, _ = made.sample(torch.tensor([logits] * 300), np.arange(300), np.full(300, 1))
    assert set(tokens.tolist()) == possible


def test_a_row_that_may_choose_nothing_harms_nobody() -> None:
    """Every token banned: whatever it chooses is a token, and its neighbour's choice is its own."""
    made = Sampler(2)
    made.begin(new_row(0, SamplingParams(no_repeat_ngram_size=1), 0, [0, 1, 2, 3]))
    made.begin(new_row(1, SamplingParams(), 0, [0]))
    tokens, _ = made.sample(torch.tensor([[1.0, 2.0, 3.0, 4.0], [-INF, -INF, 1.0, -INF]]), np.arange(2), np.array([4, 1]))
    assert 0 <= tokens[0] < 4
    assert tokens[1] == 2
