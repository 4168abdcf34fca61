"""One paced server for all; each test has its own deployment on it."""

import socket
from collections.abc import Iterator

import pytest
from paced import PacedFrontend, Server, build_tokenizer


@pytest.fixture(scope="session")
def paced_server() -> Iterator[Server]:
    server = Server(PacedFrontend(build_tokenizer()))
    # asyncio sets it on sockets of its own alone; with Nagle's algorithm the first token waits 40 ms for a delayed ACK
    server._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with server as running:
        yield running


@pytest.fixture
def fox(paced_server: Server) -> PacedFrontend:
    before = next(iter(paced_server.frontends.values()))
    fresh = PacedFrontend(before.tokenizer)
    paced_server.frontends = {fresh.name: fresh}
    return fresh
