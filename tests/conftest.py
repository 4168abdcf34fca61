"""Fixtures that several test folders share."""

import signal

from checkpoints import make_checkpoint

__all__ = ["make_checkpoint"]

# under nohup, or behind a shell's `&`, these come ignored, and what tests start and end by them would inherit that
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
