"""The flags of `shardscope stress`; `command` makes a plan of them."""

from __future__ import annotations

from runtime.flags import Options

STRESS: Options = [
    ("url", str, "of another server with OpenAI's API; else the daemon's"),
    ("rate", float, "open loop: requests/s, whatever the server does (the default, at 1)"),
    ("arrivals", str, "of an open loop: poisson, gamma or constant"),
    ("burstiness", float, "of gamma arrivals: 1 is poisson, below it they come in bursts"),
    ("ramp", float, "the rate at the end of --duration"),
    ("concurrency", str, "closed loop: so many at once; a list (1,8,32) or auto (1, 2, 4, ...) finds the knee"),
    ("sweep", str, 'change the layout to each of these ("tp4,pp4,tp2pp2"), with the steps of --concurrency (1,8,32); then back'),
    ("trace", str, "JSON lines of {timestamp (ms), input_length, output_length, hash_ids}"),
    ("duration", float, "seconds, of each step (30; of a list's or auto's steps 10)"),
    ("requests", int, "at most so many, of each step"),
    ("input_tokens", str, "of a prompt (512): N, normal:MEAN,DEVIATION or uniform:LEAST,LARGEST"),
    ("output_tokens", str, "of an answer (128), in the same forms"),
    ("seed", int, "same seed, same requests and times"),
    ("slo", str, "milliseconds that make good service: ttft=500,itl=30,tpot=30,e2e=8000"),
    ("warmup", float, "seconds at the beginning that are not measured"),
    ("fault", list[str], '"t=10 SIGSTOP rank=2 for=3" or "t=10 SIGKILL rank=2"; may repeat'),
    ("report", str, "write a self-contained HTML page here"),
]
