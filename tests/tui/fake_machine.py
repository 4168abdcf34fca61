"""Machines that are always the same, and checkpoints as far as a judge reads them."""

import json
from pathlib import Path

from runtime.daemon.settle import Machine
from runtime.planner.models import find_model
from tui.view.fit import Device, Hardware
from tui.view.settings import DEFAULTS, as_text

GIB = 1 << 30


def cpu(left, memory=24.0):
    """Without GPUs, so many GiB left of its memory."""
    return Hardware((), memory * GIB, left * GIB)


def gpus(count, gib, free=None):
    return Hardware(tuple(Device("H200", gib * GIB, (gib if free is None else free) * GIB) for _ in range(count)), 1e12, 1e12)


def here(hardware):
    """What a judge is given."""
    machine = Machine(len(hardware.gpus), cpus=(0, 1), cores=(0, 1), quota=None, architecture="x86_64", memory=hardware.memory)
    return machine, hardware


def written(path, name="llama-3.1-405b", **changes):
    """A checkpoint's config.json, which is all that a judgement reads."""
    data = Path(find_model.__code__.co_filename).parent / "data" / "models.json"
    config = {**json.loads(data.read_text())[name]["config"], "architectures": ["LlamaForCausalLM"], **changes}
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


def asked(model, **values):
    return {**as_text(DEFAULTS), "model": str(model), **values}
