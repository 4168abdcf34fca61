"""Real ranks that measure, and the command around them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.commands import app
from runtime.calibrate.worlds import RANK_MODULE, World, measure
from runtime.layout import Layout
from runtime.rank.nursery import Zygote


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(RANK_MODULE) as made:
        yield made


@pytest.mark.slow
def test_ranks_measure_their_parts(zygote: Zygote) -> None:
    """However busy this machine is now: every part takes some time."""
    for rank in measure(World(Layout(tp=2), ("parts",)), "cpu", 0.0, 0.0, zygote):
        assert rank["read"] > 1e7
        for points in rank["products"].values():
            assert [rows for rows, _ in points][:: len(points) - 1] == [1, 256]
            assert all(seconds > 0 for _, seconds in points)
        assert [len(rank[name]) for name in ("layer", "moe_layer", "kv", "prompts")] == [2, 2, 3, 3]


def test_ranks_measure_their_exchanges(zygote: Zygote) -> None:
    """More bytes take longer; ranks without a core of their own take part."""
    crowd = measure(World(Layout(tp=2, pp=2), ("exchanges", "crowd", "hand_over")), "cpu", 0.0, 0.0, zygote)
    assert len(crowd) == 4
    for rank in crowd[:2]:
        assert rank["all_reduce"][-1][1] > rank["all_reduce"][0][1] > 0
        assert rank["all_to_all"][-1][1] > rank["all_to_all"][0][1]
    assert all(len(rank["laps_together"]) > 90 for rank in crowd)
    assert crowd[2]["hand_over"][-1][1] > 0


def test_the_command_imports_no_torch() -> None:
    code = "import sys, runtime.calibrate.machine, runtime.calibrate.recorded; print('torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert found.stdout == "False\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "tpu"), "it is one of auto, cpu, cuda"),
        (("--device", "cuda"), "shows no GPU"),
        (("--seconds", "1"), "10"),
        (("--from", "/nowhere.mcap"), "/nowhere.mcap"),
    ],
)
def test_what_cannot_be_measured_is_usage(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["calibrate", "-o", str(tmp_path / "out.json"), *arguments])
    assert found.exit_code == 2
    assert words in found.stderr
    assert "Traceback" not in found.output
    assert not (tmp_path / "out.json").exists()
