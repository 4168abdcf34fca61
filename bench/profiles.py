"""Profiles at size: an hour of 64 ranks at 10 steps a second, with their collectives, experts, memory and devices once a second.

Prints the file's size, the time to open it, to seek in it and to read a timeline, and what a summary and a comparison of the
whole of it cost in time and memory.

python bench/profiles.py [--ranks 64] [--rate 10] [--seconds 3600] [--layers 6 --experts 8] [--keep FILE] [--whole]
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

from profiles.comparison import compare
from profiles.measures import measure
from profiles.player import Player, events_of
from profiles.reader import Profile
from profiles.timeline import Timeline

SEEKS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--rate", type=int, default=10, help="steps a second of each rank")
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--layers", type=int, default=6, help="with experts, of each rank; 0: a dense model")
    parser.add_argument("--experts", type=int, default=8, help="of each layer on each rank")
    parser.add_argument("--keep", type=Path, help="write the file here and keep it")
    parser.add_argument("--whole", action="store_true", help="and read all of it, for a summary and a comparison with itself")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = options.keep or Path(directory) / "hour.mcap"
        if not path.exists():
            record(path, options)
        look(path)
        if options.whole:
            read(path)


def record(path: Path, options: argparse.Namespace) -> None:
    began = time.process_time()
    experts = (options.layers, options.experts) if options.layers else None
    recording = Run(options.seconds, options.ranks, options.rate, experts=experts).record(path)
    spent = time.process_time() - began
    print(f"{options.ranks} ranks x {options.rate} steps/s x {options.seconds} s: {recording.messages:,} messages")
    each = 1e6 * spent / recording.messages
    print(
        f"written: {recording.bytes / 2**20:.0f} MiB, {recording.bytes / recording.messages:.0f} bytes a message, in "
        f"{len(recording.files)} file(s); {each:.0f} us of CPU a message, with making it"
    )


def look(path: Path) -> None:
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
    timeline, wall = Timeline(profile), []
    for _ in range(SEEKS // 4):
        moment = T + rng.randrange(profile.end_ns - profile.start_ns)
        began = time.perf_counter()
        timeline.at(moment, "demo")
        wall.append(1e3 * (time.perf_counter() - began))
    print(f"steps of 3 s before a random moment: {spread(wall)}")


def read(path: Path) -> None:
    for name, work in (("summary", summary), ("comparison with itself", comparison)):
        began, before = time.process_time(), resident()
        work(path)
        spent = time.process_time() - began
        print(f"{name}: {spent:.0f} s of CPU time, at most {resident() - before:.0f} MiB more memory than before")


def summary(path: Path) -> None:
    with Profile(path) as profile:
        measure(profile)


def comparison(path: Path) -> None:
    with Profile(path) as a, Profile(path) as b:
        compare(a, b)


def resident() -> float:
    """The most memory so far without the file's own pages, in MiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(status["RssAnon"].split()[0]) / 1024


def spread(times: list[float]) -> str:
    times.sort()
    return f"median {statistics.median(times):.0f}, p99 {times[int(0.99 * len(times))]:.0f}, worst {times[-1]:.0f} ms"


if __name__ == "__main__":
    main()
