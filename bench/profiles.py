"""Profiles at size: an hour of 64 ranks at 10 steps a second. Prints the file's size, and the time to open it and to seek in it.

python bench/profiles.py [--ranks 64] [--rate 10] [--seconds 3600] [--keep FILE]
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

for place in ("tests/profiles", "."):  # ahead of this script's own folder, where `profiles` would be this file
    sys.path.insert(0, str(Path(__file__).parents[1] / place))
from profile_runs import Run, T

from profiles.player import Player, events_of
from profiles.reader import Profile

SEEKS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--rate", type=int, default=10, help="steps a second of each rank")
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--keep", type=Path, help="write the file here and keep it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = options.keep or Path(directory) / "hour.mcap"
        if not path.exists():
            record(path, options)
        measure(path)


def record(path: Path, options: argparse.Namespace) -> None:
    began = time.process_time()
    recording = Run(options.seconds, options.ranks, options.rate).record(path)
    spent = time.process_time() - began
    print(f"{options.ranks} ranks x {options.rate} steps/s x {options.seconds} s: {recording.messages:,} messages")
    each = 1e6 * spent / recording.messages
    print(
        f"written: {recording.bytes / 2**20:.0f} MiB, {recording.bytes / recording.messages:.0f} bytes a message, in "
        f"{len(recording.files)} file(s); {each:.0f} us of CPU a message, with making it"
    )


def measure(path: Path) -> None:
    began = time.perf_counter()
    profile = Profile(path)
    opened = time.perf_counter() - began
    began = time.perf_counter()
    events = events_of(profile)
    print(f"open: {1e3 * opened:.0f} ms; {len(events)} event ticks in {1e3 * (time.perf_counter() - began):.0f} ms")
    rng, player = random.Random(1), Player(profile)
    wall, cpu = [], []
    for _ in range(SEEKS):
        moment = T + rng.randrange(profile.end_ns - profile.start_ns)
        began, began_cpu = time.perf_counter(), time.process_time()
        player.at(moment)
        wall.append(1e3 * (time.perf_counter() - began))
        cpu.append(1e3 * (time.process_time() - began_cpu))
    print(f"seek to {SEEKS} random moments: {spread(wall)} of wall time, {spread(cpu)} of CPU time")


def spread(times: list[float]) -> str:
    times.sort()
    return f"median {statistics.median(times):.0f}, p99 {times[int(0.99 * len(times))]:.0f}, worst {times[-1]:.0f} ms"


if __name__ == "__main__":
    main()
