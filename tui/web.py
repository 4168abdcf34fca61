"""The dashboard in a browser: textual-serve runs one dashboard a visitor and carries its screen over a web socket."""

from __future__ import annotations

import ipaddress
import shlex
import sys
from collections.abc import Callable
from pathlib import Path


class MissingPackage(Exception):
    """textual-serve is not installed; the message says how to."""


class Exposed(ValueError):
    """Others than this machine's users would be able to steer."""


def serve(host: str, port: int, readonly: bool, place: Callable[[], Path], tell: Callable[[str], None]) -> None:
    """Until Ctrl-C. `place` gives the daemon's run directory, which is asked for once all else is well.

    Raises MissingPackage, and Exposed where anybody in the network could change what runs here.
    """
    if not readonly and not loopback(host):
        raise Exposed(
            f"--host {host}: there is no password, so everybody who reaches it could stop deployments; "
            "add --readonly, or stay on 127.0.0.1 and forward the port: ssh -L 8001:127.0.0.1:8001 THIS_HOST"
        )
    try:
        from textual_serve.server import Server
    except ImportError:
        raise MissingPackage("shardscope web needs textual-serve: pip install 'shardscope[web]'") from None
    command = [sys.executable, "-m", "shardscope", "--run-dir", str(place()), *(["--readonly"] if readonly else [])]
    tell(f"the dashboard is at http://{host}:{port}, Ctrl-C ends it")
    Server(shlex.join(command), host=host, port=port, title="shardscope").serve()


def loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
