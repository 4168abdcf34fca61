"""The sampler beside a slow reference: the same tokens can come, as often; and nothing but the row itself decides."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference_sampler import EOS, distribution, new_row, penalized

from runtime.rank import sampler as module
from runtime.rank.sampler import Sampler, uniform
from runtime.sampling import SamplingParams

VOCAB = 12
NUMBER = st.floats(-6, 6).map(lambda x: round(x, 2))
LOGITS = st.lists(NUMBER, min_size=VOCAB, max_size=VOCAB)
TOKENS = st.lists(st.integers(0, 4), max_size=10)


@st.composite
def wishes(draw: st.DrawFn) -> SamplingParams:
    some = draw(st.lists(st.sampled_from(["t", "k", "p", "m", "rep", "pres", "freq", "ngram", "min"])))

    def maybe(name: str, values: st.SearchStrategy, off: Any) -> Any:
        return draw(values) if name in some else off

    return SamplingParams(
        temperature=maybe("t", st.sampled_from([0.0, 0.3, 0.8, 2.0]), 1.0),
        top_k=maybe("k", st.sampled_from([-1, 1, 2, 5, VOCAB, 1000]), 0),
        top_p=maybe("p", st.sampled_from([0.0, 0.1, 0.5, 0.95]), 1.0),
        min_p=maybe("m", st.sampled_from([0.05, 0.3, 1.0]), 0.0),
        repetition_penalty=maybe("rep", st.sampled_from([0.5, 1.3, 5.0]), 1.0),
        presence_penalty=maybe("pres", st.sampled_from([-1.0, 1.5]), 0.0),
        frequency_penalty=maybe("freq", st.sampled_from([-0.5, 0.7]), 0.0),
        no_repeat_ngram_size=maybe("ngram", st.integers(1, 3), 0),
        min_tokens=maybe("min", st.integers(0, 12), 0),
        stop_token_ids=(5,),
    )


def draw_many(logits: list[float], p: SamplingParams, prompt: list[int], output: list[int], count: int) -> np.ndarray:
    """The same row under `count` seeds, in one step."""
    made = Sampler(count)
    for row in range(count):
        made.begin(new_row(row, p, row, prompt, output))
    rows = np.arange(count)
    positions = np.full(count, len(prompt) + len(output))
    return made.sample(torch.tensor([logits] * count), rows, positions)[0].numpy()


def near_a_cut(logits: list[float], p: SamplingParams) -> bool:
    """Whether rounding could move a token over a threshold."""
    if p.greedy:
        return False
    finite = [x for x in logits if x > -math.inf]
    for nudge in (1 - 1e-4, 1 + 1e-4):
        if p.top_p not in (0, 1) and set(distribution(logits, _with(p, top_p=min(1.0, p.top_p * nudge)))) != set(
            distribution(logits, p)
        ):
            return True
        if 0 < p.min_p < 1 and set(distribution(logits, _with(p, min_p=p.min_p * nudge))) != set(distribution(logits, p)):
            return True
    gaps = np.diff(np.sort(finite))
    return bool((gaps < 1e-4).any())


def _with(p: SamplingParams, **changes: Any) -> SamplingParams:
    return SamplingParams(**{**{f: getattr(p, f) for f in p.__struct_fields__}, **changes})


@settings(max_examples=150, deadline=None)
@given(LOGITS, wishes(), TOKENS.filter(len), TOKENS)
def test_the_same_tokens_can_come_as_in_the_definition(
    logits: list[float], p: SamplingParams, prompt: list[int], output: list[int]
) -> None:
    adjusted = penalized(logits, p, prompt, output, EOS)
    assume(max(adjusted) > -math.inf and not near_a_cut(adjusted, p))
    expected = distribution(adjusted, p)
    seen = draw_many(logits, p, prompt, output, 400)
    assert set(seen.tolist()) <= set(expected)
    # by chance, a token of 4 % is missed by 400 draws once in 10^7
    assert {token for token, probability in expected.items() if probability > 0.04} <= set(seen.tolist())


@pytest.mark.parametrize(
    "p",
    [
        SamplingParams(),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=3.0, top_k=5),
        SamplingParams(top_p=0.8),
        SamplingParams(min_p=0.2),
        SamplingParams(temperature=1.5, top_k=8, top_p=0.7, min_p=0.05),
        SamplingParams(repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.3, temperature=0.7),
    ],
    ids=str,
)
def test_tokens_come_as_often_as_in_the_definition(p: SamplingParams) -> None:
    logits = [2.0, 1.5, 1.2, 0.9, 0.8, 0.5, 0.1, -0.3, -0.7, -1.0, -2.0, 0.3]
    count = 20_000
    expected = distribution(penalized(logits, p, [1, 2], [2, 2, 7], EOS), p)
    seen = np.bincount(draw_many(logits, p, [1, 2], [2, 2, 7], count), minlength=VOCAB)
    assert seen.sum() == seen[list(expected)].sum()
    chi = sum((seen[t] - count * q) ** 2 / (count * q) for t, q in expected.items())
    freedom = len(expected) - 1
    # Wilson and Hilferty: the 0.9999 quantile of chi-square
    limit = freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3
    assert chi < limit


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(LOGITS, wishes(), TOKENS.filter(len), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=6),
    st.randoms(),
)
def test_nothing_but_the_row_decides(requests: list[Any], numbers: Any) -> None:
    """Alone, or among any others, in any order and any row: the same token and the same logprobs."""
    requests = [(logits, _with(p, logprobs=2), prompt, seed) for logits, p, prompt, seed in requests]
    alone = []
    for logits, p, prompt, seed in requests:
        made = Sampler(1)
        made.begin(new_row(0, p, seed, prompt))
        tokens, logprobs = made.sample(torch.tensor([logits]), np.array([0]), np.array([len(prompt)]))
        alone.append((int(tokens[0]), logprobs[0]))
    rows = list(range(len(requests) + 3))
    numbers.shuffle(rows)
    order = list(range(len(requests)))
    numbers.shuffle(order)
    made = Sampler(len(rows))
    for (_, p, prompt, seed), row in zip(requests, rows, strict=False):
        made.begin(new_row(row, p, seed, prompt))
    tokens, logprobs = made.sample(
        torch.tensor([requests[i][0] for i in order]),
        np.array([rows[i] for i in order]),
        np.array([len(requests[i][2]) for i in order]),
    )
    assert [(int(tokens[j]), logprobs[j]) for j in range(len(order))] == [alone[i] for i in order]


def test_at_the_edge_of_a_token_too_nothing_but_the_row_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last bit of a sum decides, another row's wish for top-p must not change it."""
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(0)) * 3
    p = logits.softmax(-1).sort(-1, descending=True).values.double().cumsum(-1)
    monkeypatch.setattr(module, "uniform", lambda seeds, _: (p[seeds, 3] / p[seeds, -1]).numpy())
    tokens = []
    for other in (SamplingParams(), SamplingParams(top_p=0.5), SamplingParams(min_p=0.1), SamplingParams(top_k=3)):
        made = Sampler(201)
        for row in range(200):
            made.begin(new_row(row, SamplingParams(), row, [1]))
        made.begin(new_row(200, other, 0, [1]))
        tokens.append(made.sample(torch.cat([logits, logits[:1]]), np.arange(201), np.full(201, 1))[0][:200].tolist())
    assert tokens[1:] == tokens[:1] * 3


def test_a_row_forgets_who_was_there_before() -> None:
    made = Sampler(1)
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    made.begin(
        new_row(0, SamplingParams(temperature=0, no_repeat_ngram_size=1, min_tokens=9, stop_token_ids=(1,)), 0, [0], eos=())
    )
    assert made.sample(logits, np.array([0]), np.array([1]))[0].item() == 2
    made.begin(new_row(0, SamplingParams(temperature=0), 0, [0]))
    assert made.all_greedy(np.array([0]))
    assert made.sample(logits, np.array([0]), np.array([1]))[0].item() == 0


def test_penalties_count_what_was_sampled_since() -> None:
    """Token by token, beside the reference."""
    p = SamplingParams(temperature=0, repetition_penalty=1.2, frequency_penalty=0.6, no_repeat_ngram_size=3, min_tokens=4)
    logits = [3.0, 2.9, 2.8, 4.0, 2.5, 1.0, 0.5, 0.2, 0.1, 0.0, -1.0, -2.0]
    prompt, output, made = [1, 2, 1], [], Sampler(1)
    made.begin(new_row(0, p, 0, prompt))
    for _ in range(20):
        (expected,) = distribution(penalized(logits, p, prompt, output, EOS), p)
        assert made.sample(torch.tensor([logits]), np.array([0]), np.array([3 + len(output)]))[0].item() == expected
        output.append(expected)
    assert output.index(EOS[0]) == 4


def test_each_position_is_another_draw() -> None:
    made, logits = Sampler(1), torch.zeros(1, VOCAB)
    made.begin(new_row(0, SamplingParams(), 7, [1]))
    seen = [made.sample(logits, np.array([0]), np.array([position]))[0].item() for position in range(200)]
    assert set(seen) == set(range(VOCAB))


def test_seeds_and_positions_are_independent() -> None:
    seeds, positions = np.meshgrid(np.arange(-150, 150), np.arange(300))
    numbers = uniform(seeds.reshape(-1), positions.reshape(-1)).reshape(300, 300)
    assert ((numbers > 0) & (numbers < 1)).all()
    assert len(np.unique(numbers)) == numbers.size
    histogram = np.histogram(numbers, 100, (0, 1))[0]
    assert ((histogram - 900) ** 2 / 900).sum() < 99 + 4 * math.sqrt(2 * 99)
    centred = numbers - 0.5
    for near in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1], centred[1:, 1:] * centred[:-1, :-1]):
        assert abs(near.mean()) < 4 / 12 / math.sqrt(near.size)


def test_logprobs_are_of_the_unmodified_logits() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0, 3.0]])
    p = SamplingParams(temperature=0.01, logprobs=3, no_repeat_ngram_size=1)
    made = Sampler(1)
    made.begin(new_row(0, p, 0, [1, 3]))  # tokens 1 and 3 are banned: the third best is chosen
    tokens, logprobs = made.sample(logits, np.array([0]), np.array([2]))
    logs = logits[0].log_softmax(-1)
    assert tokens.tolist() == [2]
    assert logprobs[0].logprob == pytest.approx(logs[2].item())
    assert logprobs[0].rank == 3
    assert [token for token, _ in logprobs[0].top] == [1, 3, 2]
    assert [value for _, value in logprobs[0].top] == pytest.approx(logs[[1, 3, 2]].tolist())


@pytest.mark.parametrize(("count", "top"), [(0, 0), (1, 1), (20, 4)])
def test_as_many_logprobs_as_asked_and_there_are(count: int, top: int) -> None:
    made = Sampler(1)
    made.begin(new_row(0, SamplingParams(temperature=0, logprobs=count), 0, [1]))
    _, logprobs = made.sample(torch.tensor([[1.0, 4.0, 2.0, 3.0]]), np.array([0]), np.array([1]))
    assert len(logprobs[0].top) == top
    assert logprobs[0].rank == 1
