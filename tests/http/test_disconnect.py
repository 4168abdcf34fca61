"""A client that leaves takes its request with it, whether it streamed or not, waited for a first token or had some."""

import asyncio
import json
import socket

import httpx
import pytest
from fake_frontend import wait_until


def send(server, path="/v1/completions", **fields):
    """An open socket with a request on it."""
    body = json.dumps({"model": "fox", "prompt": "a", "max_tokens": 100, "inputs": "a"} | fields).encode()
    sock = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=30)
    sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return sock


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_leaving_before_the_first_token(server, fox, stream, n):
    fox.delay = 30
    sock = send(server, stream=stream, n=n)
    wait_until(lambda: fox.started == n)
    assert fox.closed == 0
    sock.close()
    wait_until(lambda: fox.closed == n, seconds=1)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("path", ["/v1/completions", "/generate_stream"])
def test_leaving_in_the_middle_of_a_stream(server, fox, path, n):
    fox.delay = 0.05
    fox.reply = "z" * 90
    sock = send(server, path, stream=True, n=n)
    while b"data:" not in sock.recv(4096):
        pass
    assert fox.closed == 0
    sock.close()
    wait_until(lambda: fox.closed == fox.started, seconds=1)


def test_one_who_leaves_does_not_disturb_the_others(server, fox):
    fox.delay = 0.01
    sock = send(server, stream=True)
    other = send(server)
    wait_until(lambda: fox.started == 2)
    sock.close()
    answer = b""
    while part := other.recv(65536):  # head and body may come apart
        answer += part
        if fox.reply.encode() in answer:
            break
    assert fox.reply.encode() in answer
    wait_until(lambda: fox.closed == 2)


async def test_a_hundred_at_once(server, fox):
    fox.delay = 0.001
    async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
        body = {"model": "fox", "prompt": "a", "max_tokens": 50}
        answers = await asyncio.gather(*(client.post("/v1/completions", json=body) for _ in range(100)))
    assert {answer.json()["choices"][0]["text"] for answer in answers} == {fox.reply}
    assert fox.closed == fox.started == 100
