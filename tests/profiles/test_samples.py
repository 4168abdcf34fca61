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
from telemetry.codec import decode_envelope, decode_keyframe
from telemetry.fold import Fold

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
    total = {}
    for event in trace_events(sample):
        if event["ph"] == "X":
            total[event["tid"]] = total.get(event["tid"], 0.0) + event["dur"]
    assert total[PARTS] == pytest.approx(total[STEPS], rel=0.02)


def test_what_each_shows():
    with Profile(SAMPLES / "tp4.mcap") as tp4, Profile(SAMPLES / "pp4.mcap") as pp4, Profile(SAMPLES / "ep4.mcap") as ep4:
        assert all(rank.axes["tp"].calls > 0 for rank in Player(tp4).at(tp4.end_ns).deployments[0].ranks)
        assert pp4.provenance.settings["micro_batches"] == 1
        assert 55 < measure(pp4).value("bubble") < 80  # one micro-batch in four stages: 75 % in theory
        last = Player(ep4).at(ep4.end_ns).deployments[0]
        loads = [sum(rank.expert_tokens) for rank in last.ranks]
        assert loads[0] > 1.7 * sum(loads) / 4  # the rank with the hot experts
        with pytest.raises(NotComparable):
            compare(tp4, ep4)
        changes = {change.measure: change.verdict for change in compare(tp4, pp4).changes}
        assert changes["bubble"] == "worse"
        assert changes["wait"] == "better"
