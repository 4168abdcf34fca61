"""The official `openai` client against the app, over a real socket."""

import json

import httpx
import openai
import pytest

from runtime.frontend import DeploymentGone
from runtime.sampling import SamplingParams

USER = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models(client):
    assert [model.id for model in client.models.list()] == ["fox"]
    assert client.models.retrieve("fox").owned_by == "shardscope"
    with pytest.raises(openai.NotFoundError, match="deployed: fox"):
        client.models.retrieve("cat")


def test_completion(client, fox):
    answer = client.completions.create(model="fox", prompt="the quick", max_tokens=100)
    assert answer.choices[0].text == fox.reply
    assert answer.choices[0].finish_reason == "stop"
    prompt, params = fox.seen[0]
    assert prompt == fox.tokenizer.encode("the quick")
    assert params == SamplingParams(max_tokens=100)
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == len(fox.tokenizer.encode(fox.reply)) + 1
    assert answer.usage.prompt_tokens_details.cached_tokens == 4


def test_max_tokens_defaults_to_16_and_to_the_contexts_end(client, fox):
    fox.reply = "z" * 20
    answer = client.completions.create(model="fox", prompt="x")
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 16)
    client.completions.create(model="fox", prompt=[40] * 250)
    assert fox.seen[-1][1].max_tokens == 6
    client.chat.completions.create(model="fox", messages=USER)
    prompt, params = fox.seen[-1]
    assert params.max_tokens == fox.max_model_len - len(prompt)


@pytest.mark.parametrize("prompt", ["one", ["one", "two"], [40, 41], [[40, 41], [42]]])
def test_every_form_of_prompt_and_n(client, fox, prompt):
    prompts = 2 if prompt in (["one", "two"], [[40, 41], [42]]) else 1
    answer = client.completions.create(model="fox", prompt=prompt, n=2, seed=7, max_tokens=50)
    assert [choice.index for choice in answer.choices] == list(range(2 * prompts))
    assert {choice.text for choice in answer.choices} == {fox.reply}
    assert sorted(params.seed for _, params in fox.seen) == [7] * prompts + [8] * prompts
    assert all(params.n == 1 for _, params in fox.seen)
    assert answer.usage.prompt_tokens == sum(len(prompt) for prompt, _ in fox.seen) // 2


def test_echo(client, fox):
    assert client.completions.create(model="fox", prompt="so ", echo=True, max_tokens=99).choices[0].text == "so " + fox.reply
    tokens = fox.tokenizer.encode("so ")
    stream = client.completions.create(model="fox", prompt=[tokens, tokens], echo=True, max_tokens=99, stream=True)
    texts = ["", ""]
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["so " + fox.reply] * 2


def test_completion_stream_with_usage(client, fox):
    options = {"include_usage": True}
    chunks = list(client.completions.create(model="fox", prompt="a", max_tokens=99, stream=True, stream_options=options))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == fox.reply
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == len(fox.tokenizer.encode(fox.reply)) + 1
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_stop_string_across_tokens_aborts_nothing_else(client, fox):
    answer = client.completions.create(model="fox", prompt=["a", "b"], max_tokens=99, stop=["y do", "never"])
    assert [choice.text for choice in answer.choices] == ["the laz"] * 2
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert answer.choices[0].stop_reason == "y do"
    assert fox.closed == fox.started == 2


def test_completion_logprobs(client, fox):
    answer = client.completions.create(model="fox", prompt="a", max_tokens=3, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert logprobs.token_logprobs == [-0.25] * 3
    assert [len(top) for top in logprobs.top_logprobs] == [2] * 3
    streamed = client.completions.create(model="fox", prompt="a", max_tokens=3, logprobs=2, stream=True)
    assert [offset for chunk in streamed for offset in chunk.choices[0].logprobs.text_offset] == logprobs.text_offset


def test_vllms_parameters_arrive(client, fox):
    extra = {
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 3,
        "min_tokens": 2,
        "ignore_eos": True,
        "stop_token_ids": [40],
        "skip_special_tokens": False,
        "include_stop_str_in_output": True,
    }
    client.completions.create(
        model="fox", prompt="a", temperature=0.5, top_p=0.9, stop="x", extra_body=extra, frequency_penalty=1
    )
    params = fox.seen[0][1]
    assert {name: getattr(params, name) for name in extra} == extra | {"stop_token_ids": (40,)}
    assert (params.temperature, params.top_p, params.stop, params.frequency_penalty) == (0.5, 0.9, ("x",), 1.0)


def test_chat(client, fox):
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "text", "text": "you"}]},
    ]
    answer = client.chat.completions.create(model="fox", messages=messages, max_completion_tokens=50, tool_choice="none")
    assert answer.choices[0].message.content == fox.reply
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    prompt, params = fox.seen[0]
    assert fox.tokenizer.decode(prompt, False) == "<system>be brief</s><user>hello\nyou</s><assistant>"
    assert prompt.count(1) == 2
    assert params.max_tokens == 50


def test_chat_stream_of_two_choices(client, fox):
    stream = client.chat.completions.create(
        model="fox", messages=USER, n=2, stream=True, stream_options={"include_usage": True}, logprobs=True, top_logprobs=2
    )
    *chunks, last = stream
    for index in (0, 1):
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert own[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in own) == fox.reply
        assert [choice.finish_reason for choice in own] == [None] * (len(own) - 1) + ["stop"]
        tokens = [entry for choice in own if choice.logprobs for entry in choice.logprobs.content]
        assert bytes(byte for entry in tokens[:-1] for byte in entry.bytes).decode() == fox.reply
        assert all(len(entry.top_logprobs) == 2 for entry in tokens)
    assert last.usage.completion_tokens == 2 * (len(fox.tokenizer.encode(fox.reply)) + 1)
    assert len({chunk.id for chunk in [*chunks, last]}) == 1


def test_chat_template_kwargs_and_refusals_by_the_template(client):
    client.chat.completions.create(model="fox", messages=USER, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    with pytest.raises(openai.BadRequestError, match="the user speaks first") as caught:
        client.chat.completions.create(model="fox", messages=[{"role": "assistant", "content": "hi"}])
    assert caught.value.param == "messages"


def test_events_on_the_wire(server):
    body = {"model": "fox", "prompt": "a", "stream": True}
    with httpx.stream("POST", server.url + "/v1/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        events = response.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    for line in events[:-2]:
        chunk = json.loads(line.removeprefix("data: "))
        assert chunk["object"] == "text_completion"
        assert "usage" not in chunk


@pytest.mark.parametrize("n", [1, 2])
def test_death_in_the_middle_of_a_stream_is_an_event_and_no_done(server, client, fox, n):
    fox.fail, fox.fail_at = DeploymentGone("rank 3 died"), 2
    with httpx.stream("POST", server.url + "/v1/completions", json={"model": "fox", "prompt": "a", "stream": True, "n": n}) as r:
        assert r.status_code == 200
        lines = [line for line in r.read().decode().split("\n\n") if line]
    assert json.loads(lines[-1].removeprefix("data: "))["error"] == {
        "message": "rank 3 died",
        "type": "server_error",
        "param": None,
        "code": "deployment_gone",
    }
    with pytest.raises(openai.APIError, match="rank 3 died"):
        list(client.chat.completions.create(model="fox", messages=USER, stream=True, n=n))
    assert fox.closed == fox.started
