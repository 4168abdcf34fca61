"""The samples that ship: recorded from the real runtime, small, and each shows what it is there for."""

import random
from pathlib import Path

import pytest
from mcap.reader import make_reader

import profiles
from profiles.chrome import PARTS, STEPS, trace_events
from profiles.comparison import NotComparable, compare
from profiles.container import KEYFRAMES
from profiles.measures import measure
from profiles.player import Player
from profiles.reader import Profile
from profiles.tables import records
from profiles.timeline import Timeline
from telemetry.codec import decode_envelope, decode_keyframe
from telemetry.diagnosis import diagnose
from telemetry.fold import Fold
from telemetry.records import (
    CollectiveRecord,
    DeviceRecord,
    EngineRecord,
    EventRecord,
    ExpertRecord,
    RankMemory,
    RequestRecord,
    StepRecord,
)
from telemetry.series import SECOND

SAMPLES = Path(profiles.__file__).parent / "samples"


@pytest.fixture(params=["tp4", "pp4", "ep4"])
def sample(request):
    with Profile(SAMPLES / f"{request.param}.mcap") as profile:
        yield profile


def test_they_are_whole_small_and_say_where_they_come_from(sample):
    assert sample.complete
    assert sample.size < 300_000
    known = sample.provenance
    assert known.deployment == sample.path.stem
    assert known.torch
    assert known.config_hash
    assert known.settings["enable_prefix_caching"] is True
    with sample.path.open("rb") as file:
        assert sum(1 for _ in make_reader(file, validate_crcs=True).iter_messages()) == len(list(sample.entries()))


def test_seeking_equals_playing_through(sample):
    times = sorted(random.Random(1).randrange(sample.start_ns, sample.end_ns) for _ in range(40))
    entries = iter(sample.entries())
    fold = Fold.restored(decode_keyframe(next(entries).data))
    pending, player = next(entries), Player(sample)
    expected = []
    for at in times:
        while pending is not None and pending.arrived_ns <= at:
            if pending.topic != KEYFRAMES:
                fold.add(decode_envelope(pending.data), pending.arrived_ns)
            pending = next(entries, None)
        expected.append(fold.snapshot(at))
    for number in random.Random(2).sample(range(len(times)), len(times)):
        assert player.at(times[number]) == expected[number]


def test_parts_of_steps_add_up(sample):
    total, ends = {}, {}
    for event in sorted((e for e in trace_events(sample) if e["ph"] == "X"), key=lambda e: e["ts"]):
        thread, start = (event["pid"], event["tid"]), round(1e3 * event["ts"])
        assert start >= ends.get(thread, 0), "slices of one thread do not overlap"
        ends[thread] = start + round(1e3 * event["dur"])
        total[event["tid"]] = total.get(event["tid"], 0.0) + event["dur"]
    assert total[PARTS] == pytest.approx(total[STEPS], rel=0.02)


@pytest.mark.parametrize(
    ("name", "kind", "ranks"), [("tp4", "straggler", (2,)), ("pp4", "micro-batches", None), ("ep4", "expert-imbalance", (0,))]
)
def test_each_shows_its_finding_at_any_time(name, kind, ranks):
    """tp4: rank 2's forward passes take 40 ms longer; pp4: one micro-batch in four stages; ep4: two hot experts on rank 0."""
    with Profile(SAMPLES / f"{name}.mcap") as profile:
        player = Player(profile)
        for second in range(3, int(profile.seconds) + 1):
            shown = player.at(profile.start_ns + second * SECOND)
            worst = diagnose(shown.deployments[0], shown.window_s)[0]
            assert (worst.kind, worst.severity) == (kind, "warning"), f"at {second} s: {worst.headline}"
            assert ranks is None or worst.ranks == ranks


def test_they_hold_all_that_ranks_tell(sample):
    kinds = {type(record) for _, _, record in records(sample)}
    assert kinds >= {StepRecord, CollectiveRecord, RankMemory, DeviceRecord, EngineRecord, RequestRecord, EventRecord}
    assert (ExpertRecord in kinds) == (sample.path.stem == "ep4")
    steps = [record for _, _, record in records(sample) if isinstance(record, StepRecord)]
    assert all(step.phases for step in steps)
    assert measure(sample).value("itl_p50") is not None
    assert Timeline(sample).at(sample.end_ns, sample.path.stem)


def test_what_each_shows():
    with Profile(SAMPLES / "tp4.mcap") as tp4, Profile(SAMPLES / "pp4.mcap") as pp4, Profile(SAMPLES / "ep4.mcap") as ep4:
        assert all(rank.axes["tp"].calls > 0 for rank in Player(tp4).at(tp4.end_ns).deployments[0].ranks)
        assert pp4.provenance.settings["micro_batches"] == 1
        assert 55 < measure(pp4).value("bubble") < 80  # one micro-batch in four stages: 75 % in theory
        assert measure(ep4).value("balance") < 60  # rank 0 takes half of all tokens, a quarter would be its share
        with pytest.raises(NotComparable):
            compare(tp4, ep4)
        changes = {change.measure: change.verdict for change in compare(tp4, pp4).changes}
        assert changes["bubble"] == "worse"
        assert changes["wait"] == "better"
