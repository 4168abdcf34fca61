"""A result as text for people, and the line that lives while the load runs."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.stress.progress import Progress
from runtime.stress.result import Latency, Result, Steps

NOTHING = "--"


def progress_line(now: Progress) -> str:
    of = f"/{now.duration_s:.0f}" if now.duration_s is not None else ""
    lately = now.windows["10 s"]
    ttft, itl = (_ms(lately.latency[name].p50 if name in lately.latency else None) for name in ("ttft", "itl"))
    return (
        f"{now.elapsed_s:5.1f}{of} s  sent {now.sent}  done {now.done}  err {now.errors}  open {now.in_flight}  "
        f"{lately.output_tokens_per_s:.0f} tok/s  ttft p50 {ttft}  itl p50 {itl}  lag p99 {_ms(now.lag_ms_p99)}"
    )


def as_text(result: Result) -> str:
    """A paragraph of what was done, a table of latencies, then rates and whether to believe them."""
    asked = result.requests
    lines = [
        f"{result.name}  {result.load}, prompts {result.input_tokens}, answers {result.asked_tokens}, seed {result.seed}"
        + ("  INTERRUPTED" if result.interrupted else ""),
        f"requests   {asked.sent} sent, {asked.warmup} warm-up, {asked.ok} ok, {asked.errors} errors"
        + (f", {asked.interrupted} interrupted" if asked.interrupted else "")
        + (f", {asked.short} shorter than asked" if asked.short else "")
        + f"; window {result.window_s:.1f} s",
        *(f"error      {number} x {kind}" for kind, number in result.errors.items()),
        f"{'ms':10} {'p50':>9} {'p90':>9} {'p99':>9} {'mean':>9}   formula",
        *(_latency_line(name, latency) for name, latency in result.latency.items()),
        f"output     {result.output_tokens_per_s:.1f} tokens/s, {result.requests_per_s:.2f} requests/s; "
        f"a client sees {_number(result.interactivity)} tokens/s",
        *_goodput_lines(result),
        *(f"fault      {done.fault}: {done.outcome}" for done in result.faults),
        _generator_line(result),
        *_server_lines(result),
        *(f"profile    {path}" for path in result.profiles),
        *([f"unrecorded {result.unrecorded}"] if result.unrecorded else []),
    ]
    return "\n".join(lines)


def step_header() -> str:
    names = ("at once", "tok/s", "req/s", "ttft p50", "ttft p99", "itl p50", "itl p99", "e2e p50", "errors", "good")
    return " ".join(f"{name:>9}" for name in names)


def step_row(result: Result) -> str:
    """Milliseconds; `good`: the fraction that met the SLO."""
    shown = ((50, "ttft"), (99, "ttft"), (50, "itl"), (99, "itl"), (50, "e2e"))
    good = result.goodput.fraction if result.goodput else None
    cells = [
        str(result.concurrency),
        f"{result.output_tokens_per_s:.1f}",
        f"{result.requests_per_s:.2f}",
        *(_number(_p(q, result.latency, name)) for q, name in shown),
        str(result.requests.errors),
        NOTHING if good is None else f"{100 * good:.0f}%",
    ]
    marks = ("  BEHIND" if result.generator.behind else "") + ("  INTERRUPTED" if result.interrupted else "")
    return " ".join(f"{cell:>9}" for cell in cells) + marks


def knee_line(steps: Steps) -> str:
    knee = NOTHING if steps.knee is None else f"{steps.knee} at once"
    if steps.knee is not None and len(steps.steps) > 1 and steps.steps[-1].concurrency == steps.knee:
        knee += " or beyond: it is the last step"
    return f"knee {knee}  ({steps.rule})"


def _latency_line(name: str, latency: Latency) -> str:
    figures = " ".join(f"{value:>9.1f}" for value in (latency.p50, latency.p90, latency.p99, latency.mean))
    return f"{name.upper():10} {figures}   {latency.formula}"


def _goodput_lines(result: Result) -> list[str]:
    good = result.goodput
    if good is None:
        return []
    slo = ", ".join(f"{name} <= {limit:g} ms" for name, limit in good.slo.items())
    share = NOTHING
    if good.fraction is not None and good.low is not None and good.high is not None:
        share = f"{100 * good.fraction:.1f} % ({100 * good.low:.1f} to {100 * good.high:.1f}, Wilson 95 %)"
    return [f"goodput    {good.requests_per_s:.2f} requests/s, {share} of ok and errors; {slo}"]


def _generator_line(result: Result) -> str:
    made = result.generator
    verdict = f"BEHIND: {made.why}" if made.behind else "kept up"
    lags = f"lag p50 {_ms(made.lag_ms_p50)}, p99 {_ms(made.lag_ms_p99)}; late p99 {_ms(made.late_ms_p99)}"
    return f"generator  {verdict}; {lags}, {100 * made.cpu_share:.0f} % of a core"


def _server_lines(result: Result) -> list[str]:
    """What the server counted, and by how much more the clients saw of it."""
    server = result.server
    if server is None:
        return []
    asked = result.requests
    others = f" ({server.requests - asked.sent} of others)" if server.requests > asked.sent else ""
    means = ", ".join(
        f"{name} mean {_ms(value)}{_beyond(value, result.latency.get(name.lower()))}"
        for name, value in (("TTFT", server.ttft_ms), ("TPOT", server.tpot_ms), ("E2E", server.e2e_ms))
    )
    return [f"server     {server.requests} requests{others}, {server.output_tokens} tokens; {means}"]


def _beyond(server: float | None, seen: Latency | None) -> str:
    return "" if server is None or seen is None else f" (clients {seen.mean - server:+.1f})"


def _p(q: int, latencies: Mapping[str, Latency], name: str) -> float | None:
    found = latencies.get(name)
    return None if found is None else found.p99 if q == 99 else found.p50


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"


def _ms(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f} ms"
