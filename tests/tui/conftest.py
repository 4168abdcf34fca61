"""A small checkpoint, and a judge on a machine that is always the same."""

import pytest
from fake_machine import cpu, here, written

from tui.judge import Judge


@pytest.fixture
def small(tmp_path):
    return written(tmp_path / "small-1b", "llama-3.2-1b", torch_dtype="bfloat16")


@pytest.fixture
def judge():
    return Judge(*here(cpu(16)))
