"""Makes the sample recordings: real deployments of checkpoints made here, on this machine's CPU, under the load of a few clients.

tp4: one rank's forward passes take longer, so that the others wait for it. pp4: one micro-batch for four stages. ep4: two experts
of one member get every token first.

python profiles/samples/make.py [--out DIR] [tp4 pp4 ep4]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy
from safetensors.numpy import load_file, save_file

from runtime.background import DaemonProcess
from runtime.rank.board import Board
from runtime.rank.faults import Fault
from runtime.spec import DeploymentSpec
from telemetry.snapshot import RankView

WARM_UP_S = 3.0
SLOW_S = 0.04  # by how much
HOT = (0, 1)  # experts on the first rank of ep 4
_WORDS = "the rank that waits for another one is not slow it is early"


@dataclass(frozen=True)
class Sample:
    family: str
    spec: dict[str, Any]
    seconds: float
    clients: int
    hot: bool = False
    slow: int | None = None  # a rank whose forward passes take longer
    prompt: str = field(default=" ".join([_WORDS] * 4))


SAMPLES = {
    "tp4": Sample("llama3", {"tp": 4}, seconds=15, clients=4, slow=2),
    "pp4": Sample("llama3", {"pp": 4, "micro_batches": 1}, seconds=13, clients=4),
    "ep4": Sample("mixtral", {"ep": 4}, seconds=20, clients=8, hot=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("names", nargs="*", default=list(SAMPLES), metavar="NAME", help=", ".join(SAMPLES))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        path = options.out / f"{name}.mcap"
        path.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="sample-") as directory:
            make(name, SAMPLES[name], Path(directory), path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def make(name: str, sample: Sample, directory: Path, out: Path) -> None:
    """Record one of them. The daemon's files and the checkpoint go into `directory`."""
    model = directory / f"{sample.family}-demo"
    command = ["--out", str(model), "--family", sample.family, "--size", "demo", "--dtype", "float32"]
    subprocess.run([sys.executable, "-m", "runtime.checkpoint.synthetic", *command], check=True)
    if sample.hot:
        heat(model)
    spec = DeploymentSpec.model_validate({"model": model, "name": name, "device": "cpu", "max_model_len": 1024, **sample.spec})
    with DaemonProcess(directory / "run", "127.0.0.1:0") as daemon, daemon.client() as client:
        for _ in client.deploy(spec):
            pass
        if sample.slow is not None:
            slow(client.snapshot().deployments[0].ranks, sample.slow)
        with load(client.status()[0].http, name, sample):
            threading.Event().wait(WARM_UP_S)
            for _ in client.record(name, directory / "sample.mcap", sample.seconds):
                pass
    shutil.move(directory / "sample.mcap", out)
    out.chmod(0o644)  # a recording is its owner's alone; this one is for everybody


def slow(ranks: Sequence[RankView], number: int) -> None:
    """Have a rank sleep in every forward pass, by the board that the ranks inherited: as a throttled device does."""
    directory = Path(f"/proc/{ranks[number].info.pid}/fd")
    board = next(fd for fd in directory.iterdir() if "shardscope-board" in os.readlink(fd))
    status = Board(os.open(board, os.O_RDWR), len(ranks)).ranks[number]
    status.fault_arg, status.fault = round(1e6 * SLOW_S), Fault.SLOW_FORWARD


def heat(model: Path) -> None:
    """Point two experts of each layer's router in opposite directions, far: every token goes to one of them first."""
    for path in model.glob("*.safetensors"):
        tensors = load_file(path)
        for key, tensor in tensors.items():
            if key.endswith(".gate.weight"):
                tensor[HOT[0]] *= 20
                tensor[HOT[1]] = -tensor[HOT[0]]
                tensors[key] = numpy.ascontiguousarray(tensor)
        save_file(tensors, path, metadata={"format": "pt"})


@contextmanager
def load(address: str, name: str, sample: Sample) -> Iterator[None]:
    """So many clients, each with one request after another."""
    ending = threading.Event()
    body = {"model": name, "prompt": sample.prompt, "max_tokens": 32, "ignore_eos": True, "stream": True}

    def client() -> None:
        with httpx.Client(base_url=address, timeout=120) as http:
            while not ending.is_set():
                with http.stream("POST", "/v1/completions", content=json.dumps(body)) as answer:
                    for _ in answer.iter_lines():
                        pass

    threads = [threading.Thread(target=client) for _ in range(sample.clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
