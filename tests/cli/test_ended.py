"""Signals that end a command while it works: its children and what it began to write go with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import MakeCheckpoint

PATIENCE_S = 60.0


def ended(signum: int, when: Callable[[], bool], scratch: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """`shardscope COMMAND` with `scratch` for what is temporary, which a signal to it alone ends `when` that is so."""
    process = subprocess.Popen(
        [sys.executable, "-m", "shardscope", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    deadline = time.monotonic() + PATIENCE_S
    while not when():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signum)
    out, errors = process.communicate(timeout=PATIENCE_S)
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_of_a_demo_model_that_is_being_made_nothing_stays(signum: int, tmp_path: Path) -> None:
    model = tmp_path / "cache" / "model"
    told = ended(signum, lambda: any(tmp_path.glob("cache/.making-*/*")), tmp_path, "demo", "--headless", "--dir", str(model))
    assert (told.returncode, told.stdout, told.stderr) == (128 + signum, "", "")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_generation_that_is_ended_cleans_up(signum: int, tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    model = make_checkpoint("llama")
    scratch = tmp_path / "t"
    scratch.mkdir()
    told = ended(signum, lambda: any(scratch.glob("*/*")), scratch, "generate", str(model), "--prompt", "x", "--ignore-eos")
    assert (told.returncode, told.stdout, told.stderr) == (128 + signum, "", "")
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_calibration_that_is_ended_cleans_up(signum: int, tmp_path: Path) -> None:
    scratch = tmp_path / "t"
    scratch.mkdir()
    out = tmp_path / "machine.json"
    told = ended(signum, lambda: any(scratch.glob("*/*")), scratch, "calibrate", "--device", "cpu", "-o", str(out))
    assert (told.returncode, told.stdout) == (128 + signum, "")
    assert "Traceback" not in told.stderr
    assert not list(scratch.iterdir())
    assert not out.exists()
