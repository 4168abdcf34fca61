"""Requests to an engine and its tokens back as text: with the test as the engine."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_model import SHAPE

from runtime.checkpoint.tokenizer import Tokenizer
from runtime.daemon.frontend import DeploymentFrontend
from runtime.frontend import DeploymentGone, Overloaded
from runtime.protocol import Abort, Generate, Outputs, TokensOut
from runtime.sampling import SamplingParams


@pytest.fixture
def sent() -> list[Generate | Abort]:
    return []


@pytest.fixture
def frontend(make_checkpoint: Callable[..., Path], sent: list[Generate | Abort]) -> DeploymentFrontend:
    made = DeploymentFrontend("t", SHAPE, Tokenizer.from_directory(make_checkpoint("llama")), 512, sent.append)
    made.open(512)
    return made


async def begun(frontend: DeploymentFrontend, sent: list, params: SamplingParams | None = None):
    """A stream that has sent its request, and the task that waits for its first delta."""
    stream = frontend.generate([1, 2], params or SamplingParams())
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    return stream, first, sent[-1].request


def says(frontend: DeploymentFrontend, request: str, text: str = "", **fields) -> None:
    tokens = frontend.tokenizer.encode(text, add_special_tokens=False) if text else []
    frontend.deliver(Outputs([TokensOut(request, tokens, **fields)]))


async def test_text_comes_back_and_the_end_needs_no_abort(frontend, sent) -> None:
    stream, first, request = await begun(frontend, sent)
    says(frontend, request, "hello")
    assert (await first).text == "hello"
    says(frontend, request, " world", finish="length")
    assert [(delta.text, delta.finish) async for delta in stream] == [(" world", "length")]
    assert [type(message) for message in sent] == [Generate]
    assert frontend.open_streams == 0


async def test_leaving_aborts(frontend, sent) -> None:
    stream, first, request = await begun(frontend, sent)
    says(frontend, request, "hello")
    await first
    await stream.aclose()
    assert sent[-1] == Abort(request)
    says(frontend, request, "too late")
    assert frontend.open_streams == 0


async def test_a_stop_string_aborts_once(frontend, sent) -> None:
    stream, first, request = await begun(frontend, sent, SamplingParams(stop=("lo",)))
    says(frontend, request, "hello world")
    delta = await first
    assert (delta.text, delta.finish, delta.stop_reason) == ("hel", "stop", "lo")
    assert [delta async for delta in stream] == []
    assert sent[1:] == [Abort(request)]


async def test_what_ends_a_request_early_is_raised(frontend, sent) -> None:
    for fields, kind in (
        ({"finish": "error", "error": "queue full: 9 requests are waiting"}, Overloaded),
        ({"finish": "error", "error": "rank 1 died"}, DeploymentGone),
        ({"finish": "abort"}, DeploymentGone),
    ):
        _stream, first, request = await begun(frontend, sent)
        says(frontend, request, **fields)
        with pytest.raises(kind):
            await first
    assert not any(isinstance(message, Abort) for message in sent)


async def test_a_failure_ends_every_stream_and_admits_no_more(frontend, sent) -> None:
    begins = [await begun(frontend, sent) for _ in range(3)]
    frontend.fail("lost its ranks: rank 1 died")
    for _stream, first, _request in begins:
        with pytest.raises(DeploymentGone, match="rank 1 died"):
            await first
    with pytest.raises(DeploymentGone, match="rank 1 died"):
        await anext(frontend.generate([1], SamplingParams()))
    assert not frontend.ready


async def test_what_was_said_before_a_failure_is_still_told(frontend, sent) -> None:
    stream, first, request = await begun(frontend, sent)
    says(frontend, request, "hello", finish="length")
    frontend.fail("was stopped")
    assert (await first).finish == "length"
    assert [delta async for delta in stream] == []
