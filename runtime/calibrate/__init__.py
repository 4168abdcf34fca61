"""Measure this machine, so that plans for it rest on what it does: in ranks of the runtime's own kind, by its own operators."""
