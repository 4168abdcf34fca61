"""What a crash, a bad disk or an enemy leaves of a file: every whole chunk, no exception, no more memory than allowed."""

import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import zstandard
from mcap.data_stream import RecordBuilder
from mcap.reader import make_reader
from mcap.records import Chunk
from profile_runs import S, T

from profiles import container
from profiles.player import Player, events_of
from profiles.reader import Profile, ProfileError
from profiles.recovery import recover, whole_chunks


@pytest.fixture(scope="module")
def whole(run_file):
    """(the file's bytes, the end of each chunk and how many messages it holds)"""
    with Profile(run_file) as profile:
        return run_file.read_bytes(), [(chunk.end, len(profile.entries_of(i))) for i, chunk in enumerate(profile.chunks)]


def test_cut_anywhere_every_whole_chunk_comes_back(whole, tmp_path):
    data, chunks = whole
    rng = random.Random(1)
    for number in range(100):
        cut = rng.randrange(len(data))
        broken, healed = tmp_path / f"{number}.part", tmp_path / f"{number}.mcap"
        broken.write_bytes(data[:cut])
        report = recover(broken, healed)
        inside = [count for end, count in chunks if end <= cut]
        assert (report.chunks, report.messages + report.keyframes, report.unreadable) == (len(inside), sum(inside), 0)
        if inside:
            with Profile(healed) as profile:
                assert profile.complete
                assert profile.provenance.deployment == "demo"
                assert len(list(profile.entries())) == sum(inside)
                Player(profile).at(profile.end_ns)
        else:
            assert not healed.exists()


def test_a_recovered_file_is_the_same_to_the_stock_reader(whole, tmp_path):
    data, _ = whole
    (tmp_path / "cut").write_bytes(data[: len(data) * 3 // 4])
    report = recover(tmp_path / "cut", tmp_path / "healed.mcap")
    with (tmp_path / "healed.mcap").open("rb") as file:
        assert len(list(make_reader(file, validate_crcs=True).iter_messages())) == report.messages + report.keyframes
    with Profile(tmp_path / "cut") as cut, Profile(tmp_path / "healed.mcap") as healed:
        assert Player(cut).at(cut.end_ns) == Player(healed).at(healed.end_ns)


def test_flipped_bits_cost_the_chunks_they_hit_and_no_more(whole, tmp_path):
    data, chunks = whole
    rng = random.Random(2)
    for number in range(40):
        broken = bytearray(data)
        places = [rng.randrange(8, len(data)) for _ in range(5)]
        for place in places:
            broken[place] ^= 1 << rng.randrange(8)
        path = tmp_path / f"{number}.mcap"
        path.write_bytes(broken)
        report = recover(path, tmp_path / f"{number}-healed.mcap")
        assert report.chunks >= len(chunks) - 5
        try:
            with Profile(path) as profile:
                for at in (T, T + 11 * S, T + 29 * S, T + 3 * S):
                    Player(profile).at(at)
                events_of(profile)
        except ProfileError:
            pass


def test_a_flip_in_a_chunk_is_noticed_and_the_next_keyframe_sets_it_right(whole, run_file, tmp_path):
    data, chunks = whole
    broken = bytearray(data)
    broken[chunks[2][0] - 100] ^= 16
    (tmp_path / "flip.mcap").write_bytes(broken)
    with Profile(tmp_path / "flip.mcap") as flipped, Profile(run_file) as good:
        linear = Player(flipped)
        linear.at(T + S)
        assert linear.at(T + 29 * S) == Player(good).at(T + 29 * S) == Player(flipped).at(T + 29 * S)
        assert len(list(flipped.entries())) < len(list(good.entries()))
        assert flipped.damaged == 1
    assert recover(tmp_path / "flip.mcap", tmp_path / "healed.mcap").expected == len(chunks)


def chunk(data, size, compression="zstd", crc=0):
    builder = RecordBuilder()
    Chunk(compression, data, 0, 0, crc, size).write(builder)
    return builder.end()


@pytest.mark.parametrize("claim", [1 << 20, container.MAX_RECORD, 1 << 40, (1 << 64) - 1])
def test_a_bomb_is_refused_before_it_goes_off(whole, tmp_path, claim):
    """4 GiB of zeros in a few hundred kilobytes, whatever size it claims to have."""
    compressor = zstandard.ZstdCompressor().compressobj()
    zeros = bytes(16 << 20)
    bomb = b"".join(compressor.compress(zeros) for _ in range(64)) + compressor.flush()
    start = whole[0].index(container.ZSTD_CHUNK) - container.ZSTD_AT
    path = tmp_path / "bomb.mcap"
    path.write_bytes(whole[0][:start] + chunk(bomb, claim, crc=zlib.crc32(b"x")) + whole[0][start:])
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from profiles.recovery import recover; from profiles.reader import Profile\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "report = recover(Path(sys.argv[1]), Path(sys.argv[2])); Profile(Path(sys.argv[1])).close()\n"
        "print(report.chunks, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)"
    )
    out = subprocess.run([sys.executable, "-c", script, path, tmp_path / "out.mcap"], capture_output=True, text=True, check=True)
    found, grown = map(int, out.stdout.split())
    assert found == len(whole[1])
    assert grown < 200  # MiB


def test_random_messages_in_whole_chunks_are_skipped(whole, tmp_path):
    rng = random.Random(5)
    records = b"".join(
        bytes([container.MESSAGE]) + (22 + 40).to_bytes(8, "little") + rng.randbytes(22 + 40) for _ in range(50)
    ) + rng.randbytes(100)
    start = whole[0].index(container.ZSTD_CHUNK) - container.ZSTD_AT
    hostile = chunk(zstandard.compress(records), len(records), crc=zlib.crc32(records))
    path = tmp_path / "hostile.mcap"
    path.write_bytes(whole[0][:start] + hostile + whole[0][start:])
    report = recover(path, tmp_path / "out.mcap")
    assert report.chunks == len(whole[1]) + 1
    assert report.unreadable >= 50


def test_random_keyframes_never_break_a_replay(whole, tmp_path, run_file):
    """Bits flipped within a keyframe and its checksum made right again: shown or refused, never raised."""
    with Profile(run_file) as profile:
        place = profile.chunks[0]
        _, data = container.chunk_at(profile._file, place.start)
    rng = random.Random(6)
    for number in range(150):
        hostile = bytearray(data)
        for _ in range(rng.randrange(1, 6)):
            hostile[rng.randrange(len(hostile) - 4000, len(hostile))] = rng.randrange(256)
        fixed = chunk(zstandard.compress(bytes(hostile)), len(hostile), crc=zlib.crc32(hostile))
        path = tmp_path / f"{number}.mcap"
        path.write_bytes(whole[0][: place.start] + fixed + whole[0][place.end : whole[1][3][0]])
        try:
            with Profile(path) as profile:
                Player(profile).at(T + S)
                Player(profile).at(profile.end_ns)
        except ProfileError:
            pass


def test_a_full_disk_stops_the_recording_and_leaves_what_was_flushed(tmp_path):
    """RLIMIT_FSIZE stands in for the disk: writes beyond it fail."""
    script = Path(__file__).with_name("full_disk.py")
    out = subprocess.run([sys.executable, script, tmp_path / "full.mcap"], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stderr
    report = recover(tmp_path / "full.mcap.part", tmp_path / "healed.mcap")
    assert report.messages > 100
    with Profile(tmp_path / "healed.mcap") as profile:
        assert Player(profile).at(profile.end_ns).deployments[0].engine.running == 4


def test_nothing_whole_writes_nothing(tmp_path):
    (tmp_path / "noise").write_bytes(random.Random(9).randbytes(100_000))
    report = recover(tmp_path / "noise", tmp_path / "out.mcap")
    assert (report.chunks, report.expected, (tmp_path / "out.mcap").exists()) == (0, None, False)


def test_the_scan_finds_what_the_index_says(run_file):
    with Profile(run_file) as profile:
        assert [place.start for place, _ in whole_chunks(profile._file)] == [place.start for place in profile.chunks]
