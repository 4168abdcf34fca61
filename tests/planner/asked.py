"""Requests and setups of the planner's tests, and where the measured rows lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.planner.cost import Setup
from runtime.planner.hardware import Cluster, find_gpu
from runtime.planner.memory import precision
from runtime.planner.models import find_model
from runtime.planner.parameters import find_engine
from runtime.planner.search import Request
from runtime.planner.sharding import Sharding

DATA = Path(__file__).parents[3] / "shared" / "reference" / "data"


def measured(name: str) -> Path:
    """A file of the measured rows that lie beside the repository; skips the test where they do not."""
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return path


def setup(model: str, gpu: str = "h200", weights: str = "fp8", engine: str = "vllm", kv: str = "same", **degrees: int) -> Setup:
    found, sharding = find_model(model), Sharding(**degrees)
    return Setup(found, sharding, Cluster(find_gpu(gpu), sharding.ranks), precision(found, weights, kv), find_engine(engine))


def request(model: str, gpu: str = "h200", gpus: int = 8, isl: int = 1024, osl: int = 1024, **more: object) -> Request:
    return Request(find_model(model), Cluster(find_gpu(gpu), gpus), isl, osl, **{"weights": "fp8", **more})
