"""Ranks without a model, forked by a real zygote that need not import torch; and real daemons."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fake_model import MACHINE, SHAPE
from served import Served

from runtime.daemon.launcher import Endpoints, RankGroup
from runtime.rank.nursery import Zygote
from runtime.spec import DeploymentSpec

Launch = Callable[..., RankGroup]


@pytest.fixture(scope="session", autouse=True)
def fakes_importable() -> Iterator[None]:
    """In the processes that we start, too."""
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before]))
    yield
    os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote("fake_rank") as zygote:
        yield zygote


@pytest.fixture
def launch(zygote: Zygote, tmp_path: Path) -> Iterator[Launch]:
    """Launch fake ranks: `launch(tp=2, stall_timeout_s=1.0)`. Whatever the test leaves is killed."""
    groups: list[RankGroup] = []

    def start(**asked: object) -> RankGroup:
        spec = DeploymentSpec.model_validate({"model": tmp_path, "name": "fake", **asked})
        endpoints = Endpoints(plans=["" for _ in range(spec.layout.world_size)], results="")
        groups.append(RankGroup.launch(spec, SHAPE, 1, endpoints, tmp_path / "logs", zygote, MACHINE))
        return groups[-1]

    yield start
    for group in groups:
        group.kill()


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """Short enough for sockets, unlike pytest's own."""
    import shutil
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="shardscope-test-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Served]:
    with TemporaryDirectory(prefix="shardscope-test-") as path:
        served = Served(Path(path))
        yield served
        served.close()


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("llama")
