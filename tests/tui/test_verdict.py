"""The verdict names what matters most, and only what the data show."""

from msgspec.structs import replace
from scenes import FAILED, FEED, LOADING, QUIET, RELAUNCH, STEADY, STRAGGLER, alone, drawn, ranks_changed, scene

from tui.demo.story import ACTS
from tui.view.options import Feed, Options
from tui.view.verdict import verdict


def judged(snapshot, feed=FEED):
    return verdict(snapshot, feed, Options())


def test_nothing_yet():
    assert "waiting" in judged(None, Feed("live", None)).cause
    assert judged(None, Feed("live", None, "the daemon does not answer")).evidence == "the daemon does not answer"


def test_silence_of_the_source_comes_first():
    found = judged(scene(FAILED), Feed("live", 12.0, "the daemon does not answer"))
    assert "12 s" in found.cause
    assert found.level == "warn"


def test_nothing_deployed():
    assert "shardscope deploy" in judged(replace(scene(), deployments=())).remedy


def test_a_failure_gives_its_reason_and_where_to_look():
    found = judged(scene(FAILED))
    assert "out of memory" in found.cause
    assert found.remedy == "shardscope logs qwen3-30b"


def test_a_load_shows_its_phase_and_progress():
    assert judged(scene(LOADING)).cause == "load 45%"
    assert judged(scene(RELAUNCH)).cause.startswith("launch 2: load ")


def test_a_reconfiguration_says_what_it_is_at_and_why():
    found = judged(alone(scene(), state="RECONFIGURING", phase="load", progress=0.45, reason="tp 2 -> 1, pp 1 -> 2"))
    assert (found.cause, found.evidence) == ("reconfiguring, requests wait: load 45%", "tp 2 -> 1, pp 1 -> 2")
    assert "◐ RECONFIGURING" in drawn(alone(scene(), state="RECONFIGURING"))[0]


def test_idle_without_work_is_no_demand_and_no_bubble():
    assert "no demand" in judged(scene(QUIET)).cause


def test_a_late_rank_is_named():
    for layout in ("tp4", "tp2pp2", "ep4"):
        found = judged(scene(STRAGGLER, layout))
        assert found.cause.endswith("% of a step for rank 3")
        assert found.evidence.startswith("it computes 1.3x its peers")


def test_the_verdict_of_each_act_of_the_script():
    acts = {"quiet": "no demand", "crowd": "KV is full", "throttled": "rank 1: the GPU is throttled", "failed": "failed:"}
    for name, cause in acts.items():
        begin, end = ACTS[name]
        assert judged(scene((begin + end) / 2 + 3, "tp2pp2")).cause.startswith(cause)
    assert "for the host" in judged(scene(sum(ACTS["host"]) / 2 + 3, "tp4")).cause
    assert "too few micro-batches" in judged(scene(sum(ACTS["thin"]) / 2 + 3, "pp4")).cause


def test_severities_have_levels():
    assert judged(scene(STEADY, "tp1")).level == "good"
    assert judged(scene(LOADING)).level == "info"
    assert judged(scene(STRAGGLER, "tp4")).level == "warn"
    assert judged(scene(FAILED)).level == "bad"


def test_silent_and_stalled_ranks():
    def old(rank):
        return replace(rank, age_s=5.0)

    assert "no rank has made a step for 5.0 s" in judged(ranks_changed(scene(), old)).cause
    one = ranks_changed(scene(), lambda rank: old(rank) if rank.info.rank == 2 else rank)
    assert judged(one).cause == "rank 2 is silent for 5.0 s"
    stalled = ranks_changed(scene(), lambda rank: replace(rank, state="STALLED") if rank.info.rank == 2 else rank)
    assert judged(stalled).cause == "rank 2 is stalled"


def test_unavailable_figures_are_not_judged():
    def unknown(rank):
        return replace(rank, bubble_pct=None, axes={}, step_ms=None, compute_ms=None, split=None)

    assert judged(ranks_changed(scene(), unknown)).cause == "serving"
