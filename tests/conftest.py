"""Fixtures that several test folders share."""

from checkpoints import make_checkpoint

__all__ = ["make_checkpoint"]
