"""One process that makes the ranks of all tests here."""

from collections.abc import Iterator

import pytest

from runtime.rank.nursery import Zygote


@pytest.fixture(scope="session")
def shared_zygote() -> Iterator[Zygote]:
    with Zygote() as made:
        yield made
