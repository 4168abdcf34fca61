"""text-generation-inference's routes and shapes, and what Takeoff's clients send and read."""

import json

import httpx
import pytest

from runtime.frontend import DeploymentGone, Overloaded


@pytest.fixture
def post(server):
    def call(path="/generate", **body):
        return httpx.post(server.url + path, json=body)

    return call


def events(response):
    assert response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(block.removeprefix("data:")) for block in response.text.split("\n\n") if block]


def test_generate(post, fox):
    assert post(inputs="the quick").json() == {"generated_text": fox.reply}
    prompt, params = fox.seen[0]
    assert prompt == fox.tokenizer.encode("the quick")
    assert (params.temperature, params.max_tokens, params.logprobs) == (0.0, 100, None)
    assert post("/", inputs="a").json() == [{"generated_text": fox.reply}]


def test_parameters(post, fox):
    parameters = {"do_sample": True, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "seed": 5, "max_new_tokens": 4, "stop": ["x"]}
    post(inputs="abcdef", parameters=parameters | {"truncate": 2, "repetition_penalty": 1.2})
    prompt, params = fox.seen[0]
    assert prompt == fox.tokenizer.encode("abcdef")[-2:]
    assert (params.temperature, params.top_k, params.top_p, params.seed, params.max_tokens) == (0.5, 3, 0.9, 5, 4)
    assert params.stop == ("x",)
    post(inputs="a", parameters={"temperature": 0.5, "do_sample": False})
    assert fox.seen[1][1].greedy
    post(inputs="a", parameters={"temperature": 0.5})
    assert fox.seen[2][1].temperature == 0.5


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [({}, "eos_token"), ({"max_new_tokens": 3}, "length"), ({"stop": ["laz"]}, "stop_sequence")],
)
def test_details(post, fox, parameters, reason):
    answer = post(inputs="a", parameters=parameters | {"details": True, "return_full_text": True}).json()
    details = answer["details"]
    assert details["finish_reason"] == reason
    assert details["generated_tokens"] == len(details["tokens"])
    assert details["input_length"] == 1
    assert all(set(token) == {"id", "text", "logprob", "special"} for token in details["tokens"])
    assert answer["generated_text"].startswith("athe")
    if reason == "stop_sequence":
        assert answer["generated_text"] == "athe laz"


@pytest.mark.parametrize("path", ["/generate_stream", "/"])
@pytest.mark.parametrize("key", ["inputs", "text"])
def test_stream(post, fox, path, key):
    told = events(post(path, stream=True, parameters={"max_new_tokens": 50}, **{key: "a"}))
    assert "".join(event["token"]["text"] for event in told if not event["token"]["special"]) == fox.reply
    assert [event["index"] for event in told] == list(range(1, len(told) + 1))
    assert all(event["generated_text"] is None and event["details"] is None for event in told[:-1])
    assert told[-1]["generated_text"] == fox.reply
    assert told[-1]["details"]["finish_reason"] == "eos_token"
    assert told[0]["token"]["logprob"] == -0.25
    assert told[-1]["token"]["special"]


def test_text_held_back_is_not_lost_with_the_end_token(post, fox):
    fox.reply = "the do"
    told = events(post("/generate_stream", inputs="a", parameters={"stop": ["dog"]}))
    assert "".join(event["token"]["text"] for event in told if not event["token"]["special"]) == "the do"


def test_takeoff(post, fox):
    flat = {
        "sampling_temperature": 0.7,
        "sampling_topp": 0.8,
        "sampling_topk": 9,
        "max_new_tokens": 40,
        "consumer_group": "primary",
    }
    assert post(text="a", **flat, json_schema=None, regex_string="").json()["text"] == fox.reply
    params = fox.seen[0][1]
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.7, 0.8, 9, 40)
    assert post(text=["a", "b"]).json() == {"text": [fox.reply] * 2}
    assert fox.seen[1][1].greedy
    assert post(text="a", generate_max_length=2).status_code == 200
    assert fox.seen[-1][1].max_tokens == 2


def test_takeoffs_stream_is_bare_text(post, fox):
    fox.reply = "the lazy\ndog"
    text = post("/generate_stream", text="a", consumer_group="primary").text
    blocks = [block.split("\n") for block in text.split("\n\n") if block]
    assert "".join("\n".join(line.removeprefix("data: ") for line in block) for block in blocks) == fox.reply


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": ""},
        {"inputs": 1},
        {"inputs": "a", "text": "b"},
        {"text": []},
        {"text": ["a", 1]},
        {"inputs": "a", "parameters": {"max_new_tokens": 0}},
        {"inputs": "a", "parameters": {"max_new_tokens": 10**6}},
        {"inputs": "a", "parameters": {"temperature": -1, "do_sample": True}},
        {"inputs": "a", "parameters": {"grammar": {"type": "json", "value": {}}}},
        {"inputs": "a", "parameters": {"best_of": 2}},
        {"inputs": "a", "parameters": {"decoder_input_details": True}},
        {"text": "a", "json_schema": {"type": "object"}},
        {"text": "a", "regex_string": "x+"},
    ],
    ids=repr,
)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_bad_bodies_in_tgis_shape(post, path, body):
    response = post(path, **body)
    assert response.status_code == 422
    assert set(response.json()) == {"error", "error_type"}
    assert response.json()["error_type"] == "validation"


def test_failures_in_tgis_shape(post, server, fox):
    assert set(httpx.get(server.url + "/generate").json()) == {"error", "error_type"}
    fox.fail = Overloaded("full", 3)
    response = post(inputs="a")
    assert (response.status_code, response.json()["error_type"]) == (429, "overloaded")
    fox.fail, fox.fail_at = DeploymentGone("rank 0 died"), 2
    assert events(post("/generate_stream", inputs="a"))[-1] == {"error": "rank 0 died", "error_type": "generation"}


def test_info_and_choice_of_a_deployment(post, server, fox):
    info = httpx.get(server.url + "/info").json()
    assert (info["model_id"], info["max_total_tokens"]) == ("fox", 256)
    assert post(inputs="a", model="cat").status_code == 404
    fox.ready = False
    assert post(inputs="a").status_code == 503
    server.frontends = {}
    assert post(inputs="a").status_code == 503
