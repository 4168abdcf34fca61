"""Tokens to text: stop strings across token borders, held text, end tokens, min_tokens. Pieces never change the result."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.protocol import TokenLogprobs, TokensOut
from runtime.sampling import SamplingParams
from runtime.text import StopFinder, TextStream

EOS = 1


def play(tokenizer, tokens, step=1, finish="length", **params):
    """All deltas of `tokens`, `step` at a time."""
    stream = TextStream(tokenizer, SamplingParams(**params))
    deltas = []
    for i in range(0, len(tokens), step):
        last = i + step >= len(tokens)
        logprobs = [TokenLogprobs(-1.0, 1, [])] * len(tokens[i : i + step])
        deltas.append(stream.add(TokensOut("r", tokens[i : i + step], finish if last else None, logprobs=logprobs)))
        if deltas[-1].finish:
            break
    return deltas, stream


def text_of(deltas):
    return "".join(delta.text for delta in deltas)


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_text_holds_whole_characters_only_and_is_what_decode_says(tokenizer, step):
    words = "the lazy dög 🦊 sleeps"
    deltas, _ = play(tokenizer, tokenizer.encode(words), step)
    assert text_of(deltas) == words
    assert "\ufffd" not in text_of(deltas)


def test_half_a_character_at_the_end_is_told_as_such(tokenizer):
    deltas, _ = play(tokenizer, tokenizer.encode("a🦊")[:-1])
    assert text_of(deltas) == "a\ufffd"


@pytest.mark.parametrize("step", [1, 2, 3, 100])
@pytest.mark.parametrize(("include", "expected"), [(False, "the quick br"), (True, "the quick brown fo")])
def test_stop_string_across_tokens(tokenizer, step, include, expected):
    deltas, stream = play(
        tokenizer, tokenizer.encode("the quick brown fox"), step, stop=("own fo", "zzz"), include_stop_str_in_output=include
    )
    assert text_of(deltas) == expected
    assert stream.stopped
    assert (deltas[-1].finish, deltas[-1].stop_reason) == ("stop", "own fo")


def test_tokens_after_the_stop_string_are_dropped_with_their_logprobs(tokenizer):
    tokens = [tokenizer.encode(letter)[0] for letter in "abcdef"]
    (delta,), _ = play(tokenizer, tokens, 6, stop=("c",))
    assert (delta.text, delta.tokens, len(delta.logprobs)) == ("ab", tokens[:3], 3)


def test_what_may_begin_a_stop_string_is_held_until_it_is_decided(tokenizer):
    tokens = [tokenizer.encode(letter)[0] for letter in "aSTxSTO"]
    deltas, stream = play(tokenizer, tokens, stop=("STOP",))
    assert [delta.text for delta in deltas] == ["a", "", "", "STx", "", "", "STO"]
    assert not stream.stopped


def test_stop_strings_count_only_after_min_tokens(tokenizer):
    tokens = [tokenizer.encode(letter)[0] for letter in "xxabxy"]
    deltas, _ = play(tokenizer, tokens, stop=("x",), min_tokens=2)
    assert text_of(deltas) == "xxab"
    deltas, _ = play(tokenizer, tokens, stop=("xab",), min_tokens=2)
    assert text_of(deltas) == "xxabxy"


@pytest.mark.parametrize("stop", [(), ("never",)])
def test_the_end_token_is_not_shown(tokenizer, stop):
    tokens = [*tokenizer.encode("dog"), EOS]
    deltas, stream = play(tokenizer, tokens, finish="stop", stop=stop, skip_special_tokens=False)
    assert text_of(deltas) == "dog"
    assert deltas[-1].tokens == [EOS]
    assert not stream.stopped


def test_special_tokens_are_shown_on_request_only(tokenizer):
    tokens = [*tokenizer.encode("a"), EOS, *tokenizer.encode("b")]
    assert text_of(play(tokenizer, tokens)[0]) == "ab"
    assert text_of(play(tokenizer, tokens, skip_special_tokens=False)[0]) == "a</s>b"


def test_a_stop_tokens_id_is_the_reason(tokenizer):
    delta = TextStream(tokenizer, SamplingParams()).add(TokensOut("r", [40], "stop", stop_token=40))
    assert (delta.text, delta.finish, delta.stop_reason) == ("", "stop", 40)


@given(
    text=st.text("abc", max_size=20),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 20), max_size=6),
    include=st.booleans(),
)
def test_pieces_do_not_change_the_result(text, stops, cuts, include):
    whole = StopFinder(stops, include)
    expected = whole.add(text)
    finder, shown = StopFinder(stops, include), ""
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for start, end in pairwise(borders):
        shown += finder.add(text[start:end])
        if finder.found is not None:
            break
    assert (shown, finder.found, finder.held) == (expected, whole.found, whole.held)
