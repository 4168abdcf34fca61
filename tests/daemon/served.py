"""A real daemon with a real, tiny model, and how a client and an operating system see it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil

from runtime.background import DaemonProcess
from runtime.spec import DeploymentSpec
from runtime.status import status_object


class Served:
    """`address` of its HTTP API. The deployment is called `t`."""

    def __init__(self, run_dir: Path) -> None:
        self.process = DaemonProcess(run_dir, "127.0.0.1:0")
        self.client = self.process.client()
        self.address = self.client.status()[0].http

    def deploy(self, model: Path, **asked: object) -> int:
        """Its generation: a name's launches are counted on."""
        for _ in self.client.deploy(DeploymentSpec.model_validate({"model": model, "name": "t", "tp": 2, **asked})):
            pass
        return self.deployment()["generation"]

    def status(self) -> dict:
        return status_object(*self.client.status())

    def deployment(self) -> dict:
        return next(each for each in self.status()["deployments"] if each["name"] == "t")

    def pids(self) -> list[int]:
        """Of every process that the daemon started."""
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    def complete(self, tokens: int = 4) -> dict:
        body = {"model": "t", "prompt": "hello", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        answer = httpx.post(self.address + "/v1/completions", json=body, timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @contextlib.contextmanager
    def stream(self, tokens: int) -> Iterator[Iterator[dict]]:
        """The events of one streamed completion, as they come."""
        body = {"model": "t", "prompt": "hello", "max_tokens": tokens, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", self.address + "/v1/completions", json=body, timeout=20) as answer:
            assert answer.status_code == 200
            yield (
                json.loads(line.removeprefix("data: "))
                for line in answer.iter_lines()
                if line.startswith("data: ") and line != "data: [DONE]"
            )

    def close(self) -> None:
        self.client.close()
        self.process.stop()


def until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Ended; a zombie that its new parent has yet to reap counts."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
