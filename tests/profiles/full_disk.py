"""A daemon's recorder on a disk that fills up: it says so, once, and the hub serves on. A process of its own."""

import asyncio
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

from profile_runs import Run

from profiles.provenance import Provenance
from profiles.recorder import Recorder
from profiles.recording import Policy
from telemetry.endpoints import HubEndpoints
from telemetry.hub import Hub

LIMIT = 60_000  # bytes


async def main(path: Path) -> None:
    reports = []
    with tempfile.TemporaryDirectory() as directory:
        async with Hub(HubEndpoints.under(Path(directory))) as hub:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
            provenance = Provenance("demo", wall_ns=time.time_ns(), monotonic_ns=time.perf_counter_ns())
            recorder = Recorder(hub, path, provenance, reports.append, Policy(flush_s=0.1, flush_bytes=20_000))
            for number, (_, envelope) in enumerate(Run(seconds=120, ranks=4)):
                hub.inject(envelope.records, "demo")
                if number % 500 == 0:
                    await asyncio.sleep(0.02)
                if reports:
                    break
            recorder.join(10)
            assert len(reports) == 1, reports
            assert reports[0].error == "File too large", reports
            assert reports[0].unfinished == f"{path}.part"
            recorder.stop()  # again, by whoever does not know yet: harmless
            hub.inject([envelope.records[0]], "demo")
            assert hub.snapshot().deployments[0].name == "demo"


asyncio.run(main(Path(sys.argv[1])))
