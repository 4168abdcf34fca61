"""News of a reconfiguration."""

from runtime.control import Progress

MS = 1_000_000


def progress(phase, began_ms, share=None, reason="", **more):
    return Progress("RECONFIGURING", 2, phase, share, phase_ns=began_ms * MS, reason=reason, **more)
