"""Loads by hand for tests of the stress screen: what a job would say of them, from samples that are always the same."""

import random
from typing import ClassVar

from runtime.stress.goodput import Slo
from runtime.stress.live import Live
from runtime.stress.metrics import count_requests, errors_by_kind, goodput, judge_generator, latencies, timeline
from runtime.stress.progress import LoadState, Recording
from runtime.stress.result import FaultDone, Result, ServerSide, Steps, Sweep, Trial
from runtime.stress.sample import Sample

SLO = Slo(ttft=500, itl=30)
NAME = "qwen3-30b"
PROFILE = f"/run/shardscope/profiles/{NAME}-20261121-140200.mcap"
FAULT = FaultDone("t=20 SIGSTOP rank=2 for=3", 20.0, 4102, "stopped for 3.0 s")
LOAD = "open loop, poisson, 1 to 12 requests/s"


def samples(seconds=47, late=0.0):
    """Requests at a rising rate, each slower than the one before; one in forty fails."""
    chance, found, at = random.Random(14), [], 0.0
    while at < seconds:
        share = at / 60
        at += chance.expovariate(1 + 11 * share)
        sample = Sample(len(found), at, at + late + chance.uniform(0, 0.0002), 512, 64)
        first, gap = 0.12 + 0.4 * share**2 + chance.expovariate(40), 0.02 + 0.009 * share + chance.uniform(0, 0.004)
        sample.events = [at + first + place * gap for place in range(64)]
        sample.ended = sample.events[-1]
        if len(found) % 40 == 39:
            sample.events, sample.error, sample.ended = [], "429 overloaded", at + 0.01
        else:
            sample.output_tokens = 64
        found.append(sample)
    return found


def progress(seconds=47.0, late=0.0, faults=(FAULT,)):
    live, todo = Live(LOAD, 120.0, SLO), []
    for sample in samples(int(seconds), late):
        todo.append((sample.sent, 0, live.sent, sample))
        todo.append((sample.ended, 2, live.ended, sample))
        todo += [(event, 1, live.token, event) for event in sample.events]
    chance = random.Random(3)
    for when, _, tell, what in sorted(todo, key=lambda each: each[:2]):
        if when <= seconds:
            tell(what)
            live.woke(when, chance.uniform(0, 0.002))
    return live.progress(seconds, 0.08, faults)


def running(**changes):
    recording = Recording(PROFILE)
    state = {"load": LOAD, "slo": dict(SLO.limits), "progress": progress(), "recording": recording, **changes}
    return LoadState(NAME, "running", **state)


def result(concurrency=None, speed=1.0, behind=False, **changes):
    made = samples(30, 0.02 if behind else 0.0)
    window = max(sample.ended for sample in made)
    latency = latencies(made)
    if speed != 1.0:
        for sample in made:
            sample.events = [sample.intended + (event - sample.intended) / speed for event in sample.events]
        latency = latencies(made)
    tokens = 64.0 * sum(sample.ok for sample in made) * (concurrency or 1) ** 0.5
    fields = {
        "name": NAME, "url": "http://127.0.0.1:8000", "kind": "closed loop" if concurrency else "open loop",
        "load": f"closed loop, {concurrency} at once" if concurrency else LOAD, "concurrency": concurrency,
        "input_tokens": "normal:512,128", "asked_tokens": "64", "seed": 7, "started": 1.8e9, "interrupted": False,
        "warmup_s": 0.0, "window_s": window, "requests": count_requests(made, 0.0), "errors": errors_by_kind(made),
        "latency": latency, "prompt_tokens": 512 * len(made), "cached_tokens": 0, "events": 64 * len(made),
        "output_tokens": tokens, "output_tokens_per_s": tokens / window, "requests_per_s": len(made) / window,
        "interactivity": 1000 / latency["tpot"].p50, "goodput": goodput(made, SLO, window),
        "generator": judge_generator(made, 0.08, [0.0021]), "faults": (FAULT,), "timeline": timeline(made, window),
        "server": ServerSide(len(made), 512 * len(made), 64 * len(made), 190.0, 24.0, 1700.0), "profiles": (PROFILE,),
    }  # fmt: skip
    return Result(**{**fields, **changes})


def over(**changes):
    files = tuple(PROFILE.replace("mcap", suffix) for suffix in ("json", "html"))
    return LoadState(NAME, "over", LOAD, slo=dict(SLO.limits), found=result(**changes), files=files)


def steps():
    return tuple(result(at_once, 1 / (1 + at_once / 16)) for at_once in (1, 2, 4, 8, 16, 32))


def stepped():
    return LoadState(NAME, "over", LOAD, stepping=True, found=Steps(steps(), 8, "", False), files=(PROFILE[:-4] + "json",))


def swept(**changes):
    rows = steps()
    trials = (
        Trial("tp4", 0.8, rows[::2], 16),
        Trial("pp4", why="rank 3: KV memory for 0 tokens: weights 61.2 GiB, 0.0 of 64.0 GiB left"),
        Trial("tp2pp2", 0.6, rows[1::2], 8),
    )
    found = Sweep(NAME, "tp2pp2", trials, **{"interrupted": False, **changes})
    return LoadState(NAME, "over", LOAD, stepping=True, sweep=True, found=found, files=(PROFILE[:-4] + "json",))


class Job:
    """In place of `runtime.stress.job.Job`: it is what a test makes it. `made` keeps all of them."""

    made: ClassVar = []

    def __init__(self, name, asked, run_dir, on_end=lambda: None):
        self.name, self.asked, self.run_dir, self.on_end = name, asked, run_dir, on_end
        self.state = LoadState(name, "starting", asked.plan.pattern.label)
        self.stopped = 0
        self.made.append(self)

    def stop(self):
        self.stopped += 1

    def becomes(self, state):
        self.state = state
        if not state.alive:
            self.on_end()
