"""The dashboard as a process in a terminal of its own: that it draws, and leaves the terminal as it was however it ends."""

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
ENTERED, LEFT = b"\x1b[?1049h", b"\x1b[?1049l"  # the alternate screen
DRAWN = b"READY"


@pytest.mark.parametrize("end", [b"q", b"\x03", signal.SIGTERM], ids=["q", "ctrl-c", "SIGTERM"])
def test_the_terminal_is_left_as_it_was(end):
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(theirs)
    process = started(theirs)
    try:
        written = read_until(ours, lambda seen: DRAWN in seen)
        assert ENTERED in written
        if isinstance(end, bytes):
            os.write(ours, end)
        else:
            process.send_signal(end)
        written = read_until(ours, lambda seen: process.poll() is not None)
        assert LEFT in written
        assert b"Traceback" not in written
        assert process.returncode == 0
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def test_it_ends_with_a_terminal_that_goes_without_a_signal():
    ours, theirs = os.openpty()
    process = started(theirs)
    try:
        os.close(theirs)
        read_until(ours, lambda seen: DRAWN in seen)
        os.close(ours)
        assert process.wait(PATIENCE_S) == 1
    finally:
        process.kill()
        process.wait()


def started(terminal):
    return subprocess.Popen(
        [sys.executable, "-m", "shardscope", "--source", "demo"],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )


def read_until(terminal, found):
    seen, end = b"", time.monotonic() + PATIENCE_S
    while not found(seen):
        assert time.monotonic() < end, seen[-500:]
        while select.select([terminal], [], [], 0.05)[0]:
            seen += os.read(terminal, 1 << 16)
    while select.select([terminal], [], [], 0)[0]:
        seen += os.read(terminal, 1 << 16)
    return seen


def run(*arguments):
    command = [sys.executable, "-m", "shardscope", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_without_a_terminal_the_script_is_printed_as_lines():
    found = run("--source", "demo", "--layout", "tp2pp2")
    assert found.returncode == 0
    assert sum("  rank " in line for line in found.stdout.splitlines()) == 6
    assert "\x1b" not in found.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--source", "tape"), "--source tape: it is 'live' or 'demo'"),
        (("--source", "demo", "--layout", "rows"), "rows"),
        (("web", "--host", "0.0.0.0"), "add --readonly"),
    ],
)
def test_wrong_usage_is_told_and_exits_with_2(arguments, words):
    found = run(*arguments)
    assert (found.returncode, found.stdout) == (2, "")
    assert words in found.stderr
    assert "Traceback" not in found.stderr
