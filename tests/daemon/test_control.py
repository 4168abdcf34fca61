"""The control socket survives everybody; the run directory has one master; the command line keeps its promises."""

import json
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import zmq
from served import Served

from runtime.background import DaemonProcess, StartFailed
from runtime.client import ControlClient, NoDaemon
from runtime.control import MAX_REQUEST, Request, Status
from runtime.daemon.restarts import Restarts
from runtime.run_dir import RunDir, RunDirError


def shardscope(*arguments: str, run_dir: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "shardscope", *arguments, "--run-dir", str(run_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_random_bytes_do_not_hurt(daemon: Served) -> None:
    chance = random.Random(7)
    valid = msgspec.msgpack.encode(Request("x", Status()))
    context = zmq.Context()
    with context, context.socket(zmq.DEALER) as peer:
        peer.linger = 0
        peer.connect(daemon.process.run_dir.control)
        for _ in range(300):
            kind = chance.randrange(4)
            if kind == 0:
                peer.send(chance.randbytes(chance.randrange(200)))
            elif kind == 1:
                flipped = bytearray(valid)
                flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
                peer.send(flipped)
            elif kind == 2:
                peer.send_multipart([chance.randbytes(5) for _ in range(chance.randrange(1, 5))])
            else:
                peer.send(b"\x91" * chance.randrange(1, 20_000))  # lists in lists
        peer.send(b"\xdc" + bytes(2 * MAX_REQUEST))
    began = time.monotonic()
    assert daemon.status()["daemon"]["pid"] == daemon.process.pid
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"id": "1", "command": {"type": "launch"}}, "launch"),
        ({"id": "1", "command": {"type": "status", "more": 1}}, "more"),
        ({"id": 1, "command": {"type": "status"}}, "Expected `str`"),
    ],
)
def test_what_is_not_understood_is_told(daemon: Served, message, words) -> None:
    context = zmq.Context()
    with context, context.socket(zmq.DEALER) as peer:
        peer.linger = 0
        peer.connect(daemon.process.run_dir.control)
        peer.send(msgspec.msgpack.encode(message))
        assert peer.poll(2000)
        assert words in msgspec.msgpack.decode(peer.recv())["body"]["error"]


def test_a_second_daemon_is_told_who_the_first_is(daemon: Served) -> None:
    with pytest.raises(StartFailed, match=f"pid {daemon.process.pid}"):
        DaemonProcess(daemon.process.run_dir.path, "127.0.0.1:0")
    assert daemon.status()


def test_a_taken_port_is_named(run_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartFailed, match=address):
            DaemonProcess(run_dir, address)


def test_a_killed_daemons_directory_serves_the_next(run_dir: Path) -> None:
    first = DaemonProcess(run_dir, "127.0.0.1:0")
    first._process.kill()
    first._process.wait()
    with pytest.raises(NoDaemon):
        ControlClient(run_dir)
    with DaemonProcess(run_dir, "127.0.0.1:0") as second, second.client() as client:
        assert client.status()[0].pid == second.pid


def test_a_directory_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="107"):
        RunDir(tmp_path / ("x" * 100))


def test_the_directory_is_its_owners_alone(run_dir: Path) -> None:
    run_dir.chmod(0o755)
    place = RunDir(run_dir)
    place.acquire()
    assert run_dir.stat().st_mode & 0o777 == 0o700
    assert place.occupied
    with pytest.raises(RunDirError, match="already runs"):
        RunDir(run_dir).acquire()
    place.release()
    assert not place.occupied


def test_commands_and_their_exit_codes(daemon: Served) -> None:
    run_dir = daemon.process.run_dir.path
    said = shardscope("status", "--json", run_dir=run_dir)
    assert said.returncode == 0
    assert json.loads(said.stdout)["deployments"] == []
    assert shardscope("stop", "nobody", run_dir=run_dir).returncode == 2
    assert shardscope("deploy", "/nowhere", run_dir=run_dir).returncode == 2
    assert shardscope("deploy", ".", "--tp", "0", run_dir=run_dir).returncode == 2
    assert shardscope("logs", "nobody", run_dir=run_dir).returncode == 2
    nobody = shardscope("status", run_dir=run_dir / "x")
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert "no daemon runs in" in nobody.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["deploy", "--help"]])
def test_help_is_cheap(arguments: list[str]) -> None:
    code = f"""
import sys, shardscope
sys.argv = ["shardscope", *{arguments!r}]
try:
    shardscope.main()
except SystemExit as left:
    assert not left.code
heavy = {{"torch", "fastapi", "textual", "zmq"}} & set(sys.modules)
assert not heavy, heavy
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_the_daemon_never_imports_torch(daemon: Served) -> None:
    maps = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert "libtorch" not in maps
    code = "import sys, runtime.daemon.daemon, runtime.client; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_restarts_are_counted() -> None:
    restarts = Restarts()
    assert not restarts.failed(0, ready=False)  # the first start has one try
    restarts = Restarts()
    restarts.ready()
    assert restarts.failed(0, ready=True)
    assert restarts.failed(59, ready=True)
    assert not restarts.failed(60, ready=True)
    restarts = Restarts()
    restarts.ready()
    assert all(restarts.failed(now, ready=True) for now in range(0, 400, 40))
    restarts = Restarts()
    restarts.ready()
    assert restarts.failed(0, ready=True)
    assert restarts.failed(100, ready=False)
    assert restarts.failed(200, ready=False)
    assert not restarts.failed(300, ready=False)  # in vain, however long each took
