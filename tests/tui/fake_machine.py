"""Machines that are always the same."""

from runtime.daemon.settle import Machine
from tui.view.fit import Device, Hardware

GIB = 1 << 30


def cpu(left, memory=24.0):
    """Without GPUs, so many GiB left of its memory."""
    return Hardware((), memory * GIB, left * GIB)


def gpus(count, gib, free=None):
    return Hardware(tuple(Device("H200", gib * GIB, (gib if free is None else free) * GIB) for _ in range(count)), 1e12, 1e12)


def here(hardware):
    """What a judge is given."""
    machine = Machine(gpus=len(hardware.gpus), cpus=(0, 1), cores=(0, 1), quota=None, architecture="x86_64")
    return machine, hardware
