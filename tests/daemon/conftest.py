"""Ranks without a model, forked by a real zygote that need not import torch."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.checkpoint.config import ModelShape, RopeScaling
from runtime.daemon.launcher import Endpoints, RankGroup
from runtime.daemon.settle import Machine
from runtime.rank.nursery import Zygote
from runtime.spec import DeploymentSpec

SHAPE = ModelShape(
    family="llama",
    hidden_size=32,
    intermediate_size=64,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=64,
    max_position=512,
    rms_norm_eps=1e-5,
    rope=RopeScaling(),
    tie_embeddings=False,
    attention_bias=False,
    qk_norm=False,
    sliding_windows=(None,) * 4,
    dtype="float32",
    eos_token_ids=(2,),
    bos_token_id=1,
)
MACHINE = Machine(gpus=0, cpus=(0, 1), cores=(0, 1), quota=None, architecture="x86_64")
Launch = Callable[..., RankGroup]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote("tests.daemon.fake_rank") as zygote:
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
