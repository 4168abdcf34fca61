"""The front door. It imports the command line only once Ctrl-C cannot end it in a traceback."""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = 128 + signal.SIGINT


def main() -> None:
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is ignored, as behind nohup
    if ours:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))  # an exception would get lost in what is half imported
    from cli.commands import app

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app(prog_name="shardscope")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
