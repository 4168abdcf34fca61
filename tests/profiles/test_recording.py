"""What goes in comes out: every message, in the stock reader's eyes too; any moment reached any way; files as promised."""

import os
import random
import stat
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from profile_runs import MS, WALL, Run, S, T, provenance

from profiles import command
from profiles.container import KEYFRAMES
from profiles.player import Player, events_of
from profiles.reader import Profile, ProfileError
from profiles.recording import Policy, Recording
from profiles.writer import ProfileExists
from telemetry.codec import decode_envelope, encode_envelope, encode_snapshot
from telemetry.fold import Fold


def test_every_message_comes_back_in_order(run_file):
    with Profile(run_file) as profile:
        assert profile.complete
        assert profile.provenance.deployment == "demo"
        found = [(e.arrived_ns, decode_envelope(e.data)) for e in profile.entries() if e.topic != KEYFRAMES]
        assert found == list(Run())
        assert profile.moment(T + S) == pytest.approx(1.0)
    assert stat.S_IMODE(run_file.stat().st_mode) == 0o600
    assert not run_file.with_name("run.mcap.part").exists()


def test_the_stock_reader_opens_it(run_file):
    with run_file.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        topics = {channel.topic for channel in reader.get_summary().channels.values()}
        assert topics == {KEYFRAMES, "/demo/daemon", "/demo/engine/0", "/demo/rank/0", "/demo/rank/1"}
        assert [m.name for m in reader.iter_metadata()] == ["provenance"]
        messages = [(schema.name, message) for schema, _, message in reader.iter_messages()]
        envelopes = [message for name, message in messages if name == "Envelope"]
        assert len(envelopes) == len(list(Run()))
        assert envelopes[0].log_time == WALL
        assert all(isinstance(msgspec.msgpack.decode(message.data), list) for message in envelopes[:50])
        assert reader.get_header().profile == "shardscope-v1"


@pytest.fixture(scope="module", params=["dense", "experts"])
def moments(request, run_file, moe_file):
    """(a recording, a fold of all its messages alone, without any keyframe, drawn at 200 random moments)"""
    path, run = (run_file, Run()) if request.param == "dense" else (moe_file, Run(experts=(2, 4)))
    rng = random.Random(3)
    times = sorted(T + rng.randrange(30 * S) for _ in range(200))
    messages = iter(run)
    fold, drawn = Fold(), []
    arrived, envelope = next(messages)
    for at in times:
        while arrived is not None and arrived <= at:
            fold.add(envelope, arrived)
            arrived, envelope = next(messages, (None, None))
        drawn.append((at, fold.snapshot(at)))
    shown = drawn[-1][1].deployments[0]
    assert shown.collectives
    assert (shown.experts is not None) == (request.param == "experts")
    return path, drawn


def test_seeking_to_200_random_moments_equals_folding_everything(moments):
    path, drawn = moments
    with Profile(path) as profile:
        player = Player(profile)
        for at, expected in random.Random(4).sample(drawn, len(drawn)):
            assert player.at(at) == expected
        assert Player(profile).at(drawn[77][0]) == drawn[77][1]


def test_playing_through_equals_folding_everything(moments):
    path, drawn = moments
    with Profile(path) as profile:
        player = Player(profile)
        assert all(player.at(at) == expected for at, expected in drawn)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(T - S, T + 31 * S), min_size=2, max_size=6))
def test_a_moment_looks_the_same_however_it_is_reached(run_file, times):
    with Profile(run_file) as profile:
        player = Player(profile)
        for at in times[:-1]:
            player.at(at)
        assert encode_snapshot(0, player.at(times[-1])) == encode_snapshot(0, Player(profile).at(times[-1]))


def test_events_are_found_without_reading_everything(run_file):
    with Profile(run_file) as profile:
        assert [event.text for event in events_of(profile)] == [f"mark {70 * i}" for i in range(5)]


def test_losses_replay_as_losses(tmp_path):
    messages = [m for i, m in enumerate(Run(seconds=10)) if i % 7]
    path = tmp_path / "gaps.mcap"

    class Gaps(Run):
        def __iter__(self):
            return iter(messages)

    Gaps().record(path)
    fold = Fold()
    for arrived, envelope in messages:
        fold.add(envelope, arrived)
    with Profile(path) as profile:
        lost = Player(profile).at(profile.end_ns).lost
        assert lost == fold.snapshot(profile.end_ns).lost > 10


def test_another_deployment_stays_out(tmp_path):
    class Both(Run):
        def __iter__(self):
            for mine, other in zip(Run(seconds=3), Run(seconds=3, name="other"), strict=True):
                yield mine
                yield other

    Both().record(tmp_path / "one.mcap")
    with Profile(tmp_path / "one.mcap") as profile:
        assert {decode_envelope(e.data).deployment for e in profile.entries() if e.topic != KEYFRAMES} == {"demo"}


def test_a_full_file_is_followed_by_one_that_stands_alone(tmp_path):
    recording = Run(seconds=20).record(tmp_path / "long.mcap", Policy(rotate_s=8.0))
    assert [path.name for path in recording.files] == ["long.mcap", "long-2.mcap", "long-3.mcap"]
    whole = Fold()
    for arrived, envelope in Run(seconds=20):
        whole.add(envelope, arrived)
    with Profile(recording.files[2]) as profile:
        assert Player(profile).at(profile.end_ns) == whole.snapshot(profile.end_ns)


def test_what_exists_is_never_overwritten(run_file, tmp_path):
    with pytest.raises(ProfileExists, match="choose another name"):
        Run(seconds=1).record(run_file)
    (tmp_path / "x.mcap.part").write_bytes(b"what a crash left")
    with pytest.raises(ProfileExists, match="recover"):
        Run(seconds=1).record(tmp_path / "x.mcap")


def test_a_file_that_is_still_written_can_be_opened_and_loses_at_most_a_second(tmp_path):
    recording = Recording(tmp_path / "now.mcap", provenance(), Fold().keyframe(T))
    for arrived, envelope in Run(seconds=12):
        recording.add(arrived, envelope, encode_envelope(envelope))
        recording.tick(arrived)
    with Profile(recording.writing) as profile:
        assert not profile.complete
        assert profile.seconds > 12 - 1.2
        assert Player(profile).at(T + 5 * S).deployments[0].ranks[1].steps in (49, 50, 51)
    recording.abandon()


@pytest.mark.parametrize("content", [b"", b"x", b"\x89MCAP0\r\n", os.urandom(5000), b"\x89MCAP0\r\n" + bytes(5000)])
def test_what_is_no_profile_is_refused_in_words(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ProfileError):
        Profile(tmp_path / "x")
    with pytest.raises(ProfileError):
        Profile(tmp_path)


def test_a_seek_is_quick(run_file):
    with Profile(run_file) as profile:
        player = Player(profile)
        began = time.process_time()
        for i in range(20):
            player.at(T + (i * 7 % 30) * S + 500 * MS)
        assert (time.process_time() - began) / 20 < 0.05


def test_documents_go_along_and_a_damaged_one_is_left_out(tmp_path):
    path = tmp_path / "with.mcap"
    run = Run(seconds=2)
    recording = Recording(path, provenance(), Fold().keyframe(T))
    for arrived, envelope in run:
        recording.add(arrived, envelope, encode_envelope(envelope))
    recording.attach("stress.json", b'{"requests": 7}')
    recording.attach("note.json", b'"n"')
    recording.finish()
    with Profile(path) as profile:
        assert profile.attachments() == {"stress.json": b'{"requests": 7}', "note.json": b'"n"'}
        assert command.recording_object(profile)["attached"] == {"stress.json": {"requests": 7}, "note.json": "n"}
        assert len(list(profile.entries())) > len(list(run))
    with path.open("rb") as file:
        assert [each.name for each in make_reader(file).iter_attachments()] == ["stress.json", "note.json"]
    damaged = path.read_bytes().replace(b'{"requests": 7}', b'{"requests": 8}')
    path.write_bytes(damaged)
    with Profile(path) as profile:
        assert list(profile.attachments()) == ["note.json"]
