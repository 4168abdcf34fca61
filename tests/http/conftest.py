"""Each test's own deployment; one server and one tokenizer for all."""

from collections.abc import Iterator

import pytest
from fake_frontend import FakeFrontend, Server, build_tokenizer

from runtime.checkpoint.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return build_tokenizer()


@pytest.fixture
def fox(tokenizer: Tokenizer) -> FakeFrontend:
    return FakeFrontend(tokenizer)


@pytest.fixture(scope="session")
def one_server(tokenizer: Tokenizer) -> Iterator[Server]:
    with Server(FakeFrontend(tokenizer)) as running:
        yield running


@pytest.fixture
def server(one_server: Server, fox: FakeFrontend) -> Server:
    """Serving `fox` and nothing else."""
    one_server.frontends = {fox.name: fox}
    one_server.alive = True
    return one_server
