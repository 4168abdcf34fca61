"""How long the planner's whole search takes: processor time of every layout at every load, the least and the median of many.

python bench/search.py [--times 20]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.planner.hardware import Cluster, find_gpu
from runtime.planner.models import find_model
from runtime.planner.search import Request, find_use_case, make_plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    args = parser.parse_args()
    for model, gpus in (("llama-3.1-70b", 8), ("qwen3-235b-a22b", 8), ("deepseek-v3", 1024), ("llama-3.1-405b", 1024)):
        asked = Request(find_model(model), Cluster(find_gpu("h200"), gpus), 1024, 1024)
        found = []
        for _ in range(args.times if gpus < 64 else 3):
            start = time.process_time()
            plan = make_plan(asked, find_use_case("chat"))
            found.append(1e3 * (time.process_time() - start))
        layouts = len(plan.entries)
        print(f"{model} on {gpus}: {layouts} layouts, least {min(found):.0f} ms, median {statistics.median(found):.0f}")


if __name__ == "__main__":
    main()
