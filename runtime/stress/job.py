"""A load in a thread of its own, for a screen: it is looked at, never waited for. Its event loop is not the screen's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec.structs import replace

from runtime.client import DaemonError
from runtime.run_dir import RunDir, RunDirError
from runtime.stress.asked import Asked
from runtime.stress.client import TargetFailed
from runtime.stress.perform import News, Said, local_site, perform
from runtime.stress.progress import LoadState, Progress, Recording
from runtime.stress.report import as_html
from runtime.stress.result import Found, Result, Trial, as_object
from runtime.stress.tape import unused
from runtime.stress.values import BadPlan


class Job:
    """Begins when made. `state` is another object at every change. The process waits for its end: a load that is stopped leaves
    a whole profile, and a sweep its first layout."""

    def __init__(self, name: str, asked: Asked, run_dir: Path | None, on_end: Callable[[], None] = lambda: None) -> None:
        """`on_end` is called once, from the load's thread."""
        slo = dict(asked.plan.slo.limits) if asked.plan.slo is not None else {}
        load = asked.plan.pattern.label
        self.state = LoadState(name, "starting", load, asked.steps is not None, bool(asked.sweep), slo)
        self._asked, self._run_dir, self._on_end = asked, run_dir, on_end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"stress {name}")
        self._thread.start()

    def stop(self) -> None:
        """End the load now; what was measured is kept. Returns at once."""
        self._stop.set()

    def join(self, timeout_s: float | None = None) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._perform()
        except (BadPlan, TargetFailed, DaemonError, RunDirError, OSError) as error:
            self._change(phase="failed", error=str(error))
        except Exception as error:  # whatever it is, the screen says it
            self._change(phase="failed", error=f"{type(error).__name__}: {error}")
        self._on_end()

    def _perform(self) -> None:
        profiles = RunDir(self._run_dir).profiles
        site = local_site(self.state.name, self._asked, self._run_dir, profiles)
        found = perform(self._asked, site, self._hear, self._stop)
        self._change(phase="over", found=found, files=self._written(found, profiles))

    def _hear(self, news: News) -> None:
        phase = "stopping" if self._stop.is_set() else "running"
        match news:
            case Progress():
                self._change(phase=phase, progress=news, load=news.load, said="")
            case Recording():
                self._change(phase=phase, recording=news)
            case Result():
                self._change(phase=phase, steps=(*self.state.steps, news))
            case Trial():
                self._change(phase=phase, trials=(*self.state.trials, news), steps=())
            case Said():
                self._change(phase=phase, said=news.words)

    def _written(self, found: Found, profiles: Path) -> tuple[str, ...]:
        """JSON and report, beside the profile and named as it is."""
        profiles.mkdir(mode=0o700, parents=True, exist_ok=True)
        if isinstance(found, Result) and found.profiles:
            data = Path(found.profiles[0]).with_suffix(".json")
        else:
            data = unused(profiles, self.state.name, "sweep" if self.state.sweep else "", ".json")
        page = data.with_suffix(".html")
        data.write_bytes(msgspec.json.format(msgspec.json.encode(as_object(found)), indent=1))
        page.write_text(as_html(found))
        return str(data), str(page)

    def _change(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)
