"""A deployment under load while it is reconfigured: its streams, the command, and faults in the ranks it has or will get."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
from served import Served, until

from runtime.client import DaemonError
from runtime.control import Changed
from runtime.rank.board import Board
from runtime.rank.faults import Fault

STREAMS = 16
TOKENS = 96
PROMPTS = ["the rank that waits " * (1 + number % 7) + str(number) for number in range(STREAMS)]


class Load:
    """Open streams, each read by a thread of its own, and each with a first token. Every fourth is seeded, the others greedy."""

    def __init__(self, served: Served) -> None:
        self._address = served.address
        self._begun = threading.Semaphore(0)
        self._pool = ThreadPoolExecutor(STREAMS)
        self._streams = [self._pool.submit(self._read, number) for number in range(STREAMS)]
        for _ in range(STREAMS):
            assert self._begun.acquire(timeout=20)

    @property
    def open(self) -> int:
        return sum(not stream.done() for stream in self._streams)

    def ends(self) -> list[str]:
        """The whole texts; the first error of any stream is raised."""
        texts = [stream.result(timeout=60) for stream in self._streams]
        self._pool.shutdown()
        return texts

    def errors(self) -> set[str]:
        errors = {str(stream.exception(timeout=60)) for stream in self._streams}
        self._pool.shutdown()
        return errors

    def _read(self, number: int) -> str:
        choice = {"seed": number, "temperature": 0.9} if number % 4 == 3 else {"temperature": 0}
        body = {"model": "t", "prompt": PROMPTS[number], "max_tokens": TOKENS, "ignore_eos": True, "stream": True, **choice}
        text, finish, begun = "", None, False
        with httpx.stream("POST", self._address + "/v1/completions", json=body, timeout=60) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        raise RuntimeError(event["error"]["message"])
                    text += event["choices"][0]["text"]
                    finish = event["choices"][0]["finish_reason"]
                    if not begun:
                        begun = True
                        self._begun.release()
        assert finish == "length"
        return text


class Reconfiguration:
    """One under way, in a thread with a client of its own. `error`: what the command would say."""

    def __init__(self, served: Served, **fields: object) -> None:
        self.error: DaemonError | None = None
        self._served, self._fields = served, fields
        self._pool = ThreadPoolExecutor(1)
        self._end: Future[Changed] = self._pool.submit(self._run)

    def wait(self) -> Changed:
        change = self._end.result(timeout=40)
        self._pool.shutdown()
        return change

    def _run(self) -> Changed:
        changes = []
        with self._served.process.client() as client:
            try:
                for news in client.reconfigure("t", self._fields):
                    changes += [news] if isinstance(news, Changed) else []
            except DaemonError as error:
                self.error = error
        return changes[0]


def pids(served: Served) -> list[int]:
    return [rank["pid"] for rank in served.deployment()["ranks"]]


def comes_to(served: Served, phase: str) -> None:
    def doing() -> bool:
        deployment = served.deployment()
        return (deployment["state"], deployment["phase"]) == ("RECONFIGURING", phase)

    until(doing, 10)


def commit(pid: int, world_size: int, fault: Fault, seconds: float = 0) -> None:
    """Write a fault on the board that a rank inherited, for every rank of its generation."""
    fds = Path(f"/proc/{pid}/fd")
    board = next(fd for fd in fds.iterdir() if "shardscope-board" in os.readlink(fd))
    for status in Board(os.open(board, os.O_RDWR), world_size).ranks:
        status.fault_arg, status.fault = round(seconds * 1e6), fault


class Birth:
    """Sees the next generation's first rank at its birth, before it has loaded."""

    def __init__(self, served: Served) -> None:
        self._zygote = next(pid for pid in served.pids() if "runtime.rank.zygote" in Path(f"/proc/{pid}/cmdline").read_text())
        self._known = set(os.listdir("/proc"))

    def next(self) -> int:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            now = set(os.listdir("/proc"))
            new, self._known = now - self._known, now
            for pid in sorted(map(int, filter(str.isdigit, new))):
                with suppress(OSError, psutil.Error):
                    if psutil.Process(pid).ppid() == self._zygote:
                        return pid
        raise AssertionError("nobody is born")
