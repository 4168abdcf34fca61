"""Our load generator beside guidellm's: tokens/s and p50 TTFT of the same load on the same server, in alternating pairs.

python bench/stress.py --guidellm ENV/bin/guidellm [--pairs 5] [--paced]

guidellm lives in an environment of its own (pip install guidellm). The server is a deployment of the demo model on this machine
or, with --paced, one whose tokens come by the clock, so that each client can be held against what is true. Where there are cores
to share out, the server gets all but one and the clients the other: a client that steals from the server measures itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "stress"), str(ROOT / "tests" / "http")]

NAME = "bench"
PACED_FIRST_S, PACED_NEXT_S = 0.1, 0.02
FIGURES = ("tokens/s", "TTFT p50 ms", "TPOT p50 ms")  # guidellm calls the last one inter-token latency: a mean by request


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guidellm", required=True, help="its program, in its own environment")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--requests", type=int, default=80, help="of a run")
    parser.add_argument("--input", type=int, default=128, help="tokens")
    parser.add_argument("--output", type=int, default=64, help="tokens")
    parser.add_argument("--spread", type=int, default=16, help="standard deviation of the output: else clients march in step")
    parser.add_argument("--paced", action="store_true", help="a server of known pace")
    parser.add_argument("--serve-paced", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_paced:
        serve_paced(Path(options.serve_paced))
        return
    from runtime.demo import demo_checkpoint

    model = demo_checkpoint()
    server_cores, client_cores = shared_out()
    with paced(model, server_cores) if options.paced else deployed(model, server_cores) as url:
        os.sched_setaffinity(0, client_cores)
        clients = {"shardscope": lambda: ours(url, options), "guidellm": lambda: theirs(url, model, options)}
        for client in clients.values():
            client()  # connections, caches, compiled code
        found: dict[str, list[tuple[float, ...]]] = {name: [] for name in clients}
        for pair in range(options.pairs):
            for name in list(clients)[:: 1 if pair % 2 == 0 else -1]:
                found[name].append(clients[name]())
                print(f"  {name}: " + ", ".join(f"{value:.1f}" for value in found[name][-1]), file=sys.stderr, flush=True)
    show(found, options, server_cores, client_cores)


def shared_out() -> tuple[set[int], set[int]]:
    cores = sorted(os.sched_getaffinity(0))
    return (set(cores[:-1]), set(cores[-1:])) if len(cores) > 1 else (set(cores), set(cores))


def ours(url: str, options: argparse.Namespace) -> tuple[float, ...]:
    lengths = ["--input-tokens", options.input, "--output-tokens", f"normal:{options.output},{options.spread}"]
    load = ["--concurrency", options.concurrency, "--requests", options.requests, *lengths]
    words = [sys.executable, "-m", "shardscope", "stress", NAME, "--url", url, *map(str, load), "--json"]
    found = json.loads(subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    assert found["requests"]["ok"] == options.requests, found["errors"]
    return found["output_tokens_per_s"], found["latency"]["ttft"]["p50"], found["latency"]["tpot"]["p50"]


def theirs(url: str, model: Path, options: argparse.Namespace) -> tuple[float, ...]:
    """Greedy and with every token's text, as ours asks, so that the server has the same to do."""
    extras = {"body": {"temperature": 0, "skip_special_tokens": False}}
    backend = {"kind": "openai_http", "target": url, "model": NAME, "request_format": "/v1/completions", "http2": False}
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out.json"
        settings = {
            "--backend": {**backend, "extras": extras},
            "--profile": {"kind": "concurrent", "streams": options.concurrency},
            "--constraint": {"kind": "max_requests", "count": options.requests},
            "--tokenizer": {"kind": "hf_auto", "model": str(model)},
            "--data": {
                "kind": "synthetic_text",
                "prompt_tokens": options.input,
                "output_tokens": options.output,
                **({"output_tokens_stdev": options.spread} if options.spread else {}),
            },
            "--output": {"kind": "json", "path": str(out)},
        }
        words = [options.guidellm, "run", *(word for flag, value in settings.items() for word in (flag, json.dumps(value)))]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        subprocess.run([*words, "--disable-console"], env=environment, check=True, capture_output=True)
        metrics = json.loads(out.read_text())["benchmarks"][0]["metrics"]
    assert metrics["request_totals"]["successful"] == options.requests, metrics["request_totals"]
    # the drawn lengths' mean, by three standard errors
    strays = 3 * options.spread / options.requests**0.5
    assert abs(metrics["output_token_count"]["successful"]["mean"] - options.output) <= strays

    def figure(name: str, statistic: str) -> float:
        return metrics[name]["successful"][statistic]

    return (
        figure("output_tokens_per_second", "mean"),
        figure("time_to_first_token_ms", "median"),
        figure("inter_token_latency_ms", "median"),
    )


def show(found: dict[str, list[tuple[float, ...]]], options: argparse.Namespace, server: set[int], clients: set[int]) -> None:
    what = f"paced {1000 * PACED_FIRST_S:.0f} ms, {1000 * PACED_NEXT_S:.0f} ms" if options.paced else "demo model, float32"
    print(
        f"{what}; {options.concurrency} at once, {options.input} -> {options.output} +- {options.spread} tokens, "
        f"{options.requests} requests a run, {options.pairs} pairs; "
        f"server on cores {sorted(server)}, clients on {sorted(clients)}"
    )
    print(f"{'median of runs':<14}{'shardscope':>12}{'guidellm':>12}{'ratio of pairs':>16}{'their range':>18}")
    for place, name in enumerate(FIGURES):
        mine, other = ([run[place] for run in found[client]] for client in ("shardscope", "guidellm"))
        ratios = [a / b for a, b in zip(mine, other, strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(
            f"{name:<14}{statistics.median(mine):>12.1f}{statistics.median(other):>12.1f}"
            f"{statistics.median(ratios):>16.3f}{spread:>18}"
        )
    if options.paced:
        steps = PACED_FIRST_S + (options.output - 1) * PACED_NEXT_S
        truth = options.concurrency * options.output / steps
        print(f"true while all are at work: {truth:.1f} tokens/s and {1000 * PACED_FIRST_S:.0f} ms, without the way through HTTP")


@contextlib.contextmanager
def deployed(model: Path, cores: set[int]) -> Iterator[str]:
    from runtime.background import DaemonProcess
    from runtime.spec import DeploymentSpec

    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # for the daemon to inherit
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, DaemonProcess(Path(directory), "127.0.0.1:0") as daemon:
        os.sched_setaffinity(0, mine)
        with daemon.client() as client:
            for _ in client.deploy(DeploymentSpec(model=model, name=NAME, max_model_len=1024, max_num_seqs=32)):
                pass
            yield client.status()[0].http


@contextlib.contextmanager
def paced(model: Path, cores: set[int]) -> Iterator[str]:
    words = [sys.executable, __file__, "--guidellm", "", "--serve-paced", str(model)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(process.pid, cores)
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def serve_paced(model: Path) -> None:
    """The real HTTP app over tokens that come by the clock. Prints its address."""
    import socket

    import paced as pace

    from runtime.checkpoint.tokenizer import Tokenizer

    pace.FIRST_S, pace.NEXT_S = PACED_FIRST_S, PACED_NEXT_S
    frontend = pace.PacedFrontend(Tokenizer.from_directory(model))
    frontend.name, frontend.max_model_len = NAME, 4096
    server = pace.Server(frontend)
    server._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with server:
        print(server.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(asyncio.Event().wait())


if __name__ == "__main__":
    main()
