"""The daemon's run directory: its lock, its sockets, its logs. Who has the directory's path finds the daemon."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from pathlib import Path

import msgspec

from runtime.control import DaemonInfo

MAX_SOCKET_PATH = 107  # bytes, of a unix socket's address
_LONGEST_NAME = len("/s/999-9999/9999")
# A lock of the open file, which ends with its last holder and can be asked about without taking it, unlike flock(2)'s.
_FLOCK = "hhqqi4x"
_WHOLE_FILE = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


class RunDirError(Exception):
    """The directory cannot serve, or another daemon has it. The message says which and what to do."""


class RunDir:
    """`path` is absolute. Nothing is created before `acquire`."""

    def __init__(self, path: Path | None = None) -> None:
        """`path` None: see `default_path`. Raises RunDirError when it is too long for a socket's."""
        self.path = (path or default_path()).absolute()
        longest = len(os.fsencode(self.path)) + _LONGEST_NAME
        if longest > MAX_SOCKET_PATH:
            raise RunDirError(
                f"run directory {self.path}: its sockets' paths would have {longest} bytes, the system allows {MAX_SOCKET_PATH}; "
                "choose a shorter one with --run-dir"
            )
        self._lock = -1

    @property
    def control(self) -> str:
        return f"ipc://{self.path / 'control'}"

    @property
    def sockets(self) -> Path:
        """For sockets that live as long as a deployment or a generation."""
        return self.path / "s"

    @property
    def profiles(self) -> Path:
        """For recordings that nobody gave a place of their own."""
        return self.path / "profiles"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def info(self) -> DaemonInfo | None:
        """Of the daemon that runs here, or ran last."""
        try:
            return msgspec.json.decode((self.path / "daemon.json").read_bytes(), type=DaemonInfo)
        except (OSError, msgspec.MsgspecError):
            return None

    def write_info(self, info: DaemonInfo) -> None:
        fresh = self.path / "daemon.json.new"
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(info)) + b"\n")
        fresh.replace(self.path / "daemon.json")

    def acquire(self) -> None:
        """Create it, for its owner's eyes only, and lock it until this process ends; sweep what a killed daemon left.

        Raises RunDirError when another daemon has it, naming its pid, or when it belongs to somebody else.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_uid != os.getuid():
                raise RunDirError(f"run directory {self.path} belongs to another user; choose another with --run-dir")
            self.path.chmod(0o700)
            lock = os.open(self.path / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RunDirError(f"run directory {self.path}: {error.strerror}") from error
        try:
            fcntl.fcntl(lock, fcntl.F_OFD_SETLK, _WHOLE_FILE)
        except BlockingIOError:
            owner = os.read(lock, 32).decode().strip() or "unknown"
            os.close(lock)
            raise RunDirError(f"a daemon (pid {owner}) already runs in {self.path}") from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        self._lock = lock
        shutil.rmtree(self.sockets, ignore_errors=True)
        self.sockets.mkdir()
        self.logs.mkdir(exist_ok=True)

    def release(self) -> None:
        """Nobody shall find us any more."""
        (self.path / "daemon.json").unlink(missing_ok=True)
        shutil.rmtree(self.sockets, ignore_errors=True)
        for left in self.path.iterdir():
            if left.is_socket():
                left.unlink()
        os.close(self._lock)
        self._lock = -1

    @property
    def occupied(self) -> bool:
        """Whether a daemon runs here."""
        try:
            lock = os.open(self.path / "daemon.lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            answer = fcntl.fcntl(lock, fcntl.F_OFD_GETLK, _WHOLE_FILE)
        finally:
            os.close(lock)
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def default_path() -> Path:
    """$SHARDSCOPE_RUN_DIR, else in the user's runtime directory, else in /tmp. It need not exist."""
    if told := os.environ.get("SHARDSCOPE_RUN_DIR"):
        return Path(told)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "shardscope"
    return Path(f"/tmp/shardscope-{os.getuid()}")
