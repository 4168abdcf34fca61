"""Keys for telemetry over TCP: CurveZMQ on every connection, and a list of who may look.

A directory holds `hub.secret`, `hub.public`, a `NAME.secret` for each viewer that was made here, and `allowed/NAME.public` of all
who may look. A viewer on another machine needs `hub.public` and one `NAME.secret`. A key is 40 characters of Z85 (ZeroMQ RFC 32).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.utils import z85

HUB, VIEWER, ALLOWED = "hub", "viewer", "allowed"
ZAP_ENDPOINT = "inproc://zeromq.zap.01"  # where libzmq asks, ZeroMQ RFC 27
DOMAIN = b"telemetry"
_CHARACTERS = 40


class KeyProblem(ValueError):
    """A key is missing, malformed, or readable by others; the message names the file and says what to do."""


class HubKeys(NamedTuple):
    """The hub's own secret key, and the public keys of those who may look."""

    secret: bytes
    allowed: frozenset[bytes]

    @classmethod
    def read(cls, directory: Path) -> HubKeys:
        """Raises KeyProblem."""
        secret = _secret(directory / f"{HUB}.secret")
        allowed = frozenset(_key(path) for path in sorted((directory / ALLOWED).glob("*.public")))
        if not allowed:
            raise KeyProblem(f"nobody may look: no key in {directory / ALLOWED}; `shardscope curve-keys {directory}` makes one")
        return cls(secret, allowed)

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """What is bound from here on takes nobody without a key of ours."""
        socket.curve_server = True
        socket.curve_secretkey = self.secret
        socket.zap_domain = DOMAIN

    def answer(self, request: list[bytes]) -> list[bytes]:
        """The answer to libzmq's question whether a peer may connect."""
        version, number, _domain, _address, _identity, mechanism, *credentials = [*request, *[b""] * max(0, 6 - len(request))]
        may = mechanism == b"CURVE" and len(credentials) == 1 and z85.encode(credentials[0]) in self.allowed
        return [version, number, *((b"200", b"") if may else (b"400", b"not on the list")), b"", b""]


class ViewerKeys(NamedTuple):
    """Whom a viewer expects, and who it is."""

    hub: bytes
    public: bytes
    secret: bytes

    @classmethod
    def read(cls, directory: Path) -> ViewerKeys:
        """The hub's public key and the only viewer's secret in a directory. Raises KeyProblem."""
        hub = _key(directory / f"{HUB}.public")
        secrets = [path for path in sorted(directory.glob("*.secret")) if path.stem != HUB]
        if len(secrets) > 1 and directory / f"{VIEWER}.secret" in secrets:
            secrets = [directory / f"{VIEWER}.secret"]
        if len(secrets) != 1:
            found = ", ".join(path.name for path in secrets) or "none"
            raise KeyProblem(f"{directory} needs one viewer's secret, as {VIEWER}.secret; there: {found}")
        secret = _secret(secrets[0])
        return cls(hub, zmq.curve_public(secret), secret)

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """What is connected from here on speaks to nobody but that hub."""
        socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = self


def make_keys(directory: Path, viewer: str = VIEWER) -> list[Path]:
    """Make a viewer's keys, and the hub's where there are none yet. Returns the files made. Raises KeyProblem, OSError."""
    if not viewer or viewer == HUB or not all(c.isalnum() or c in "-_" for c in viewer):
        raise KeyProblem(f"'{viewer}' is no name for a viewer: letters, digits, '-' and '_', and not '{HUB}'")
    if (directory / f"{viewer}.secret").exists():
        raise KeyProblem(f"{directory / viewer}.secret is there already: remove it, or choose another name")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / ALLOWED).mkdir(mode=0o700, exist_ok=True)
    made = []
    if not (directory / f"{HUB}.secret").exists():
        made += _pair(directory / f"{HUB}.secret", directory / f"{HUB}.public")
    return made + _pair(directory / f"{viewer}.secret", directory / ALLOWED / f"{viewer}.public")


def _pair(secret: Path, public: Path) -> list[Path]:
    shown, hidden = zmq.curve_keypair()
    for path, key in ((secret, hidden), (public, shown)):
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(key + b"\n")
    return [secret, public]


def _secret(path: Path) -> bytes:
    key = _key(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise KeyProblem(f"{path} has mode {mode:04o}, others may read it: chmod 600 {path}")
    return key


def _key(path: Path) -> bytes:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise KeyProblem(f"no key in {path}: {error.strerror}; make keys with `shardscope curve-keys {path.parent}`") from error
    try:
        whole = len(key) == _CHARACTERS and len(z85.decode(key)) == 32
    except (KeyError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise KeyProblem(f"{path} holds no key: {_CHARACTERS} characters of Z85")
    return key
