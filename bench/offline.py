"""nano-vllm's workload, ours beside vLLM: many sequences of random lengths, all submitted at once.

    python bench/offline.py MODEL [--sequences 256] [--shortest 100] [--longest 1024] [--layout tp1] [--rounds 3] [--vllm PYTHON]

Prompts and outputs of `shortest` to `longest` tokens each, greedy, end tokens ignored. Prints output tokens/s over the whole run,
the median of rounds in which the engines take turns, and the ratio. Goal: 15,000 tokens/s on an H200 for a model of 0.6B.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def workload(args: argparse.Namespace, vocab: int) -> tuple[list[list[int]], list[int]]:
    numbers = random.Random(0)
    lengths = [
        (numbers.randint(args.shortest, args.longest), numbers.randint(args.shortest, args.longest))
        for _ in range(args.sequences)
    ]
    return [[numbers.randrange(10, vocab) for _ in range(prompt)] for prompt, _ in lengths], [output for _, output in lengths]


def ours(args: argparse.Namespace, prompts: list[list[int]], outputs: list[int]) -> float:
    """Output tokens/s."""
    from runtime import LLM, SamplingParams
    from runtime.layout import Layout

    limits = {"max_model_len": 2 * args.longest, "max_num_seqs": args.sequences, "enable_prefix_caching": False}
    with LLM(args.model, dtype="bfloat16", **limits, **Layout.parse(args.layout).asdict()) as llm:
        llm.generate(prompts[:2], SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
        wishes = [SamplingParams(temperature=0, max_tokens=count, ignore_eos=True) for count in outputs]
        start = time.perf_counter()
        found = llm.generate(prompts, wishes)
        seconds = time.perf_counter() - start
        assert [len(each.outputs[0].token_ids) for each in found] == outputs
    return sum(outputs) / seconds


def theirs(args: argparse.Namespace, prompts: list[list[int]], outputs: list[int]) -> float:
    """Output tokens/s of the vLLM that this interpreter has."""
    from vllm import LLM, SamplingParams, TokensPrompt

    limits = {"max_model_len": 2 * args.longest, "max_num_seqs": args.sequences, "enable_prefix_caching": False}
    llm = LLM(args.model, dtype="bfloat16", **limits)
    given = [TokensPrompt(prompt_token_ids=each) for each in prompts]
    llm.generate(given[:2], SamplingParams(temperature=0, max_tokens=4, ignore_eos=True), use_tqdm=False)
    wishes = [SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False) for count in outputs]
    start = time.perf_counter()
    llm.generate(given, wishes, use_tqdm=False)
    return sum(outputs) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--shortest", type=int, default=100)
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--layout", default="tp1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vllm", help="a Python interpreter that can import vllm")
    parser.add_argument("--worker", choices=["ours", "vllm"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        vocab = json.loads((Path(args.model) / "config.json").read_text())["vocab_size"]
        run = ours if args.worker == "ours" else theirs
        print(json.dumps({"tokens_per_s": run(args, *workload(args, vocab))}))
        return
    engines = {"ours": sys.executable} | ({"vllm": args.vllm} if args.vllm else {})
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(args.rounds):
        for name, python in engines.items():
            done = subprocess.run([python, __file__, *sys.argv[1:], "--worker", name], text=True, capture_output=True)
            lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
            if not lines:
                raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
            rates[name].append(json.loads(lines[-1])["tokens_per_s"])
    for name, found in rates.items():
        print(f"{name:<6}{statistics.median(found):>10.0f} output tokens/s")
    if args.vllm:
        print(f"ours / vllm {statistics.median(rates['ours']) / statistics.median(rates['vllm']):.2f}")


if __name__ == "__main__":
    main()
