"""One paced server for all; each test has its own deployment on it."""

from collections.abc import Iterator

import pytest
from paced import PacedFrontend, Server, build_tokenizer


@pytest.fixture(scope="session")
def paced_server() -> Iterator[Server]:
    with Server(PacedFrontend(build_tokenizer())) as running:
        yield running


@pytest.fixture
def fox(paced_server: Server) -> PacedFrontend:
    before = next(iter(paced_server.frontends.values()))
    fresh = PacedFrontend(before.tokenizer)
    paced_server.frontends = {fresh.name: fresh}
    return fresh
