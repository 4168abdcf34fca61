"""What a list of recordings tells of each without reading it, and what it makes of files that are not whole."""

import os
import time

from mcap.writer import Writer
from profile_runs import WALL, Run, S, T, provenance

from profiles import container, listing
from profiles.listing import COMPLETE, CUT, DAMAGED, RECORDING, SAMPLES, Listing, peek
from profiles.reader import Profile
from profiles.recording import Recording
from telemetry.codec import encode_envelope
from telemetry.fold import Fold


def test_it_tells_what_opening_tells_without_reading_a_chunk(run_file, monkeypatch):
    with Profile(run_file) as profile:
        seconds, known, size = profile.seconds, profile.provenance, profile.size
    monkeypatch.setattr(container, "chunk_at", None)
    found = peek(run_file)
    assert (found.state, found.size, found.provenance, found.problem) == (COMPLETE, size, known, "")
    assert abs(found.seconds - seconds) < 1e-6
    assert found.began_s == WALL / S


def test_a_file_without_its_end_is_cut_or_still_recorded(run_file, tmp_path):
    cut = tmp_path / "cut.mcap.part"
    cut.write_bytes(run_file.read_bytes()[: run_file.stat().st_size * 2 // 3])
    assert peek(cut).state == RECORDING  # it was written a moment ago
    os.utime(cut, (time.time() - 60, time.time() - 60))
    found = peek(cut)
    with Profile(cut) as profile:
        assert (found.state, found.provenance) == (CUT, profile.provenance)
        assert found.seconds >= profile.seconds - 1e-6  # the last chunk tells its times even when it is not whole
        assert found.seconds < 30


def test_what_is_no_profile_is_listed_with_its_reason(tmp_path):
    (tmp_path / "empty.mcap").touch()
    (tmp_path / "noise.mcap").write_bytes(b"noise" * 1000)
    with (tmp_path / "other.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start(profile="ros2")
        writer.finish()
    (tmp_path / "folder.mcap").mkdir()
    (tmp_path / "readme.txt").write_text("no recording")
    found = {each.path.name: each for each in Listing().look([tmp_path, tmp_path / "nowhere"])}
    assert found.keys() == {"empty.mcap", "noise.mcap", "other.mcap", "folder.mcap"}
    assert {each.state for each in found.values()} == {DAMAGED}
    assert found["other.mcap"].problem == "an MCAP file, but not of shardscope"
    assert all(each.problem for each in found.values())


def test_newest_first_and_only_what_changed_is_looked_at_again(run_file, tmp_path, monkeypatch):
    for number in range(3):
        path = tmp_path / f"{number}.mcap"
        path.write_bytes(run_file.read_bytes())
        os.utime(path, (1000 + number, 1000 + number))
    looks = []
    monkeypatch.setattr(listing, "peek", lambda path: looks.append(path.name) or peek(path))
    shelf = Listing()
    assert [each.path.name for each in shelf.look([tmp_path], [run_file])] == ["2.mcap", "1.mcap", "0.mcap", "run.mcap"]
    (tmp_path / "1.mcap").unlink()
    os.utime(tmp_path / "0.mcap", (2000, 2000))
    looks.clear()
    assert [each.path.name for each in shelf.look([tmp_path])] == ["0.mcap", "2.mcap"]
    assert looks == ["0.mcap"]


def test_a_recording_grows_in_the_list(tmp_path):
    recording = Recording(tmp_path / "now.mcap", provenance(), Fold().keyframe(T))
    shelf, seen = Listing(), []
    for number, (arrived, envelope) in enumerate(Run(seconds=4)):
        recording.add(arrived, envelope, encode_envelope(envelope))
        recording.tick(arrived)
        if number % 40 == 39:
            [found] = shelf.look([tmp_path])
            assert found.state == RECORDING
            seen.append(found.size)
    assert seen == sorted(seen)
    assert seen[0] < seen[-1]
    recording.finish()
    assert [each.state for each in shelf.look([tmp_path])] == [COMPLETE]


def test_the_samples_are_in_it():
    found = {each.path.stem: each for each in Listing().look([SAMPLES])}
    assert found.keys() == {"tp4", "pp4", "ep4"}
    assert all(each.state == COMPLETE and each.provenance.deployment == name for name, each in found.items())
