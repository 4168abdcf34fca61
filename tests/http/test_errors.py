"""Whatever is sent, and whatever fails behind, the answer is OpenAI's error object with the right status."""

import json

import httpx
import pytest
from fake_frontend import CONTEXT, FakeFrontend, Server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.frontend import DeploymentGone, Overloaded

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def assert_openai_error(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def raw(text):
    return text if isinstance(text, bytes) else text.encode()


def completion(**fields):
    return json.dumps({"model": "fox", "prompt": "a"} | fields)


def chat(**fields):
    return json.dumps({"model": "fox", "messages": [{"role": "user", "content": "a"}]} | fields)


MALFORMED = {
    "empty": "",
    "no json": "prompt=a",
    "cut": '{"model": "fox"',
    "array": "[]",
    "null": "null",
    "number": "1",
    "string": '"a"',
    "nothing in it": "{}",
    "bad utf-8": b'{"model": "fox", "prompt": "\xff\xfe"}',
    "half a surrogate pair": '{"model": "fox", "prompt": "\\ud800"}',
    "deep": '{"model": "fox", "prompt": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep prompt": '{"model": "fox", "prompt": ' + "[" * 150 + "]" * 150 + "}",
    "NaN": '{"model": "fox", "prompt": "a", "temperature": NaN}',
    "Infinity": '{"model": "fox", "prompt": "a", "temperature": Infinity}',
    "1e999": '{"model": "fox", "prompt": "a", "temperature": 1e999}',
    "5000 digits": '{"model": "fox", "prompt": "a", "seed": ' + "9" * 5000 + "}",
}
WRONG_COMPLETIONS = {
    "prompt": [None, 1, {}, [], "", [[]], [""], ["a", 1], [1.5], [True], [[1], "a"], [-1], [10**6], [10**30], [40] * CONTEXT],
    "model": [None, 1, ["fox"]],
    "n": [0, -1, 10**9, 10**400, 1.5, "2", True],
    "max_tokens": [0, -1, CONTEXT, 10**18, "many", 2.5],
    "min_tokens": [-1, 17],
    "temperature": [-1, 101, "hot", [1]],
    "top_p": [-0.1, 1.1],
    "top_k": [-2, 10**30, 0.5],
    "min_p": [2],
    "repetition_penalty": [0, -1],
    "presence_penalty": [3],
    "seed": [2**63, "x"],
    "stop": ["", [""], ["x"] * 17, [1], 1, {"a": 1}, "x" * 1001],
    "stop_token_ids": [[10**6], ["a"], "a", [-1]],
    "logprobs": [21, -1, True],
    "best_of": [3],
    "suffix": ["after"],
    "logit_bias": [{"40": 100}],
    "stream": ["yes", 1],
    "stream_options": [{"include_usage": True}, 1],
    "response_format": [{"type": "json_object"}],
    "guided_json": [{"type": "object"}],
}
WRONG_CHATS = {
    "messages": [
        None,
        [],
        "a",
        [1],
        [{}],
        [{"role": "user"}],
        [{"role": "king", "content": "a"}],
        [{"role": "user", "content": 1}],
    ],
    "tools": [[{"type": "function", "function": {"name": "f"}}]],
    "tool_choice": ["required", {"type": "function", "function": {"name": "f"}}],
    "response_format": [{"type": "json_schema", "json_schema": {}}, "json"],
    "max_completion_tokens": [0, CONTEXT],
    "logprobs": [5],
    "top_logprobs": [5],
    "modalities": [["audio"]],
    "chat_template_kwargs": [{"messages": []}, 1],
}
WRONG = [(COMPLETIONS, None, body, name) for name, body in MALFORMED.items()]
WRONG += [
    (COMPLETIONS, name, completion(**{name: value}), f"{name}={value!r:.40}")
    for name, v in WRONG_COMPLETIONS.items()
    for value in v
]
WRONG += [(CHAT, name, chat(**{name: value}), f"{name}={value!r:.60}") for name, v in WRONG_CHATS.items() for value in v]
WRONG += [
    (CHAT, "messages", chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]), "image"),
    (CHAT, "tool_calls", chat(messages=[{"role": "assistant", "content": "a", "tool_calls": [{"id": "x"}]}]), "tool calls"),
    (CHAT, "top_logprobs", chat(logprobs=True, top_logprobs=21), "too many top_logprobs"),
    (COMPLETIONS, "echo", completion(echo=True, logprobs=1), "echo with logprobs"),
    (COMPLETIONS, "prompt", completion(prompt=["a"] * 1025), "too many prompts"),
    (COMPLETIONS, "n", completion(prompt=["a"] * 100, n=100), "too many sequences"),
    (COMPLETIONS, "prompt", completion(prompt="x" * 100_000), "long text"),
]

# where two fields contradict each other, or one is the same as another, either may be named
RELATED = {
    "max_tokens": ["prompt"],
    "max_completion_tokens": ["messages", "max_tokens"],
    "min_tokens": ["max_tokens"],
    "top_logprobs": ["logprobs"],
}


@pytest.fixture(scope="module")
def shared(tokenizer):
    with Server(FakeFrontend(tokenizer)) as server, httpx.Client(base_url=server.url, timeout=10) as client:
        yield client


@pytest.mark.parametrize(("path", "param", "body"), [w[:3] for w in WRONG], ids=[w[3] for w in WRONG])
def test_bad_bodies(shared, path, param, body):
    error = assert_openai_error(shared.post(path, content=raw(body)), 400)
    assert error["type"] == "invalid_request_error"
    if param:
        assert error["param"] in {param, *RELATED.get(param, ())}
        assert error["param"] in error["message"]


def test_numbers_are_named_when_the_context_is_too_short(shared):
    message = assert_openai_error(shared.post(COMPLETIONS, content=completion(max_tokens=1000)), 400)["message"]
    assert "256" in message
    assert "1000" in message


def test_unknown_fields_and_nulls_are_ignored(shared):
    body = completion(user="me", metadata={"a": 1}, store=False, temperature=None, stop=None, n=None, logit_bias={}, suffix=None)
    assert shared.post(COMPLETIONS, content=body).status_code == 200


def test_oversize_bodies(shared):
    big = b'{"model": "fox", "prompt": "' + b"x" * (17 * 2**20) + b'"}'
    assert assert_openai_error(shared.post(COMPLETIONS, content=big), 413)["code"] == "body_too_large"
    pieces = (big[i : i + 2**20] for i in range(0, len(big), 2**20))
    assert_openai_error(shared.post(COMPLETIONS, content=pieces), 413)


def test_routes_and_methods(shared):
    assert_openai_error(shared.get("/v1/nothing"), 404)
    assert_openai_error(shared.get(COMPLETIONS), 405)
    assert_openai_error(shared.post("/v1/models/"), 405)
    error = assert_openai_error(shared.post(COMPLETIONS, content=completion(model="cat")), 404)
    assert error["code"] == "model_not_found"
    assert "fox" in error["message"]


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status", "kind", "retry"),
    [
        (DeploymentGone("rank 1 died"), 503, "server_error", "1"),
        (Overloaded("the queue is full", 7), 429, "rate_limit_error", "7"),
        (KeyError("secret"), 500, "server_error", None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failures_before_the_first_token(server, fox, failure, status, kind, retry, stream, n):
    fox.fail = failure
    response = httpx.post(server.url + COMPLETIONS, content=completion(stream=stream, n=n))
    error = assert_openai_error(response, status)
    assert error["type"] == kind
    assert response.headers.get("retry-after") == retry
    assert "secret" not in error["message"]
    assert fox.closed == fox.started


def test_not_ready(server, fox):
    fox.ready = False
    response = httpx.post(server.url + CHAT, content=chat())
    assert assert_openai_error(response, 503)["code"] == "not_ready"
    assert int(response.headers["retry-after"]) > 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
fields = sorted({*WRONG_COMPLETIONS, *WRONG_CHATS, "echo", "inputs", "text", "parameters", "sampling_topk"})


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    path=st.sampled_from([COMPLETIONS, CHAT, "/generate", "/generate_stream", "/"]),
    noise=st.dictionaries(st.sampled_from(fields), json_values, max_size=4),
    good=st.booleans(),
)
def test_fuzz_never_makes_a_server_error(shared, path, noise, good):
    base = {"model": "fox", "prompt": "a", "messages": [{"role": "user", "content": "a"}], "inputs": "a"} if good else {}
    response = shared.post(path, content=json.dumps(base | noise))
    assert response.status_code < 500, response.text


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from([COMPLETIONS, CHAT]), body=st.binary(max_size=50))
def test_random_bytes_are_bad_requests(shared, path, body):
    assert_openai_error(shared.post(path, content=body), 400)
