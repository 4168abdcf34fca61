"""What `shardscope demo` shows: a checkpoint made here, a deployment over four ranks, and clients that talk to it over HTTP."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from runtime import child
from runtime.background import DaemonProcess
from runtime.progress_lines import ProgressLines
from runtime.spec import DeploymentSpec

NAME = "demo"
FAMILY, SIZE, DTYPE = "llama3", "demo", "float32"
CLIENTS = 3
PAUSE_S = (0.2, 1.5)  # of a client between two requests
_TEXT = "the rank that waits for another one is not slow it is early and a bubble is what a stage sees when nobody asks"


class DemoFailed(Exception):
    """The demo could not be set up; the message says at what."""


def demo_checkpoint(directory: Path | None = None) -> Path:
    """The demo model's directory, made on first use. Raises DemoFailed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shardscope"
    model = directory or cache / f"{FAMILY}-{SIZE}-{DTYPE}"
    if (model / "config.json").exists():
        return model
    try:
        model.parent.mkdir(parents=True, exist_ok=True)
        # whole or not at all: an interrupted demo leaves no half of a model for the next one
        fresh = Path(tempfile.mkdtemp(prefix=".making-", dir=model.parent))
    except OSError as error:
        raise DemoFailed(f"no demo checkpoint can be made in {model.parent}: {error.strerror}; choose another --dir") from error
    arguments = ["--out", str(fresh), "--family", FAMILY, "--size", SIZE, "--dtype", DTYPE, "--quiet"]
    try:
        maker = child.start("runtime.checkpoint.synthetic", *arguments, output=sys.stderr.fileno())
        try:
            if maker.wait() != 0:
                raise DemoFailed(f"the demo checkpoint could not be made in {model.parent}")
        finally:
            maker.kill()  # interrupted, it would go on writing into what is removed
            maker.wait()
        if model.exists():
            model.rmdir()
        fresh.rename(model)
    except OSError as error:
        raise DemoFailed(f"the demo checkpoint could not be put into {model}: {error.strerror}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return model


@contextmanager
def demo_world(model: Path, http: str, tell: Callable[[str], None]) -> Iterator[DaemonProcess]:
    """A daemon of its own with the demo deployed under tp2 pp2 and clients at work. Everything ends with the context.

    `tell` gets a line at each step, stderr the phases of the start. Raises StartFailed and DaemonError.
    """
    spec = DeploymentSpec(model=model, name=NAME, tp=2, pp=2, max_model_len=1024, max_num_seqs=16, max_num_batched_tokens=512)
    run_dir = Path(tempfile.mkdtemp(prefix="shardscope-demo-"))
    try:
        with DaemonProcess(run_dir, http) as daemon, daemon.client() as client:
            tell(f"daemon {daemon.pid}, run directory {run_dir}")
            with ProgressLines() as lines:
                for progress in client.deploy(spec):
                    lines.show(progress)
            address = client.status()[0].http
            tell(f"'{NAME}' serves tp2 pp2 at {address}/v1")
            with _Clients(address):
                yield daemon
            tell("stopping")
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)


class _Clients:
    """A few clients in a thread: each asks, reads the stream, thinks, asks again. Failures are part of a demo's life."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="clients", daemon=True)
        self._work: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join(timeout=5)

    def _cancel(self) -> None:
        if self._work is not None:
            self._work.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._work = self._loop.create_task(self._all())
        try:
            self._loop.run_until_complete(self._work)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _all(self) -> None:
        async with httpx.AsyncClient(base_url=self._address, timeout=60) as http, asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._one(http, random.Random(number)))

    async def _one(self, http: httpx.AsyncClient, chance: random.Random) -> None:
        words = _TEXT.split()
        while True:
            prompt = " ".join(chance.choices(words, k=chance.randint(8, 120)))
            body = {"model": NAME, "prompt": prompt, "max_tokens": chance.randint(16, 128), "stream": True, "ignore_eos": True}
            try:
                async with http.stream("POST", "/v1/completions", json=body) as answer:
                    async for _line in answer.aiter_lines():
                        pass
            except httpx.HTTPError:
                pass  # a rank was killed to see what happens: it comes back
            await asyncio.sleep(chance.uniform(*PAUSE_S))
