"""The verdict names what matters most, and only what the data show."""

from msgspec.structs import replace
from scenes import FAILED, FEED, LOADING, QUIET, RELAUNCH, STEADY, STRAGGLER, alone, drawn, ranks_changed, scene

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
    found = judged(scene(STRAGGLER, "tp4"))
    assert found.cause.endswith("for rank 3")
    assert "rank 0 waits 4.9 ms" in found.evidence


def test_a_bubble_that_a_slow_rank_makes_is_not_blamed_on_the_stages():
    found = judged(scene(STRAGGLER, "tp2pp2"))
    assert found.cause == "bubble 32% in stage 0"
    assert "rank 3 computes 1.3x its peers" in found.evidence
    assert not found.remedy


def test_uneven_stages_have_a_remedy():
    def slower(rank):
        return replace(rank, compute_ms=rank.compute_ms * (1.5 if rank.info.pp else 1.0))

    found = judged(ranks_changed(scene(STEADY), slower))
    assert "stage 1 computes" in found.evidence
    assert found.remedy == "fewer layers for it"


def test_too_few_requests_for_the_stages():
    snapshot = scene(STEADY)
    found = judged(alone(snapshot, engine=replace(snapshot.deployments[0].engine, running=1)))
    assert "1 running, 2 stages to fill" in found.evidence


def test_small_losses_are_no_news():
    found = judged(scene(STEADY, "tp1"))
    assert (found.level, found.cause) == ("good", "no loss above 10%")


def test_kv_full():
    snapshot = scene(STEADY)
    engine = replace(snapshot.deployments[0].engine, kv_used=10_200, waiting=12)
    assert "KV is full" in judged(alone(snapshot, engine=engine)).cause


def test_silent_and_stalled_ranks():
    def old(rank):
        return replace(rank, age_s=5.0)

    assert "no rank has made a step for 5.0 s" in judged(ranks_changed(scene(), old)).cause
    one = ranks_changed(scene(), lambda rank: old(rank) if rank.info.rank == 2 else rank)
    assert judged(one).cause == "rank 2 is silent for 5.0 s"
    stalled = ranks_changed(scene(), lambda rank: replace(rank, state="STALLED") if rank.info.rank == 2 else rank)
    assert judged(stalled).cause == "rank 2 is stalled"


def test_an_idle_replica_is_not_silent():
    def idle(rank):
        return replace(rank, age_s=30.0) if rank.info.dp == 1 else rank

    assert "silent" not in judged(ranks_changed(scene(STEADY, "tp2dp2"), idle)).cause


def test_unavailable_figures_are_not_judged():
    def unknown(rank):
        return replace(rank, bubble_pct=None, axes={}, step_ms=None, compute_ms=None)

    assert judged(ranks_changed(scene(), unknown)).cause == "serving"
