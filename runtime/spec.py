"""What is deployed: a model, a layout, a device, limits. Read from the command line, a file or a control message."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from runtime.layout import Layout

Device = Literal["auto", "cuda", "cpu"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

MAX_NAME = 255  # bytes
Positive = Annotated[int, Field(ge=1)]

_OTHER_NAMES = {"fp32": "float32", "float": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16", "gpu": "cuda"}


class DeploymentSpec(BaseModel):
    """One deployment as its operator asked for it. `auto` values are settled by the launcher, which shows what it chose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path
    name: str = ""
    dp: Positive = 1
    pp: Positive = 1
    ep: Positive = 1
    tp: Positive = 1
    device: Device = "auto"
    dtype: Dtype = "auto"
    max_model_len: Positive | None = None  # tokens of prompt and output; None: the model's, as far as the KV cache holds one
    max_num_seqs: Positive = 256  # sequences in one step, per ep member
    max_num_batched_tokens: Positive = 2048  # tokens in one step, per ep member: longer prompts are chunked
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9  # share of a device's memory that a rank may fill
    kv_cache_bytes: Positive | None = None  # per rank; None: from the memory share (CUDA) or from the limits above (CPU)
    block_size: Annotated[int, Field(ge=1, le=256)] = 16  # tokens in a KV block
    enable_prefix_caching: bool = True
    micro_batches: Positive | None = None  # in flight at once; None: as many as stages
    oversubscribe: bool = False  # allow more ranks than GPUs; shown as emulated everywhere
    transport: Literal["auto", "shm", "gloo", "nccl"] = "auto"
    threads: Positive | None = None  # per rank on CPU; None: the cores divided over the ranks
    enforce_eager: bool = False  # no CUDA graphs
    stall_timeout_s: Annotated[float, Field(gt=0)] = 30.0  # a rank without progress for so long is treated as dead
    telemetry: bool = True
    seed: int = 0

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if name and not (name[0].isalnum() and all(c.isalnum() or c in "-_." for c in name)):
            near = re.sub(r"[^\w.-]+", "-", name).strip("-_.") or "model"
            rule = "a name begins with a letter or digit and goes on with these, '-', '_' and '.'"
            raise ValueError(f"'{name}': {rule}; give it another with --name, as --name {near}")
        if len(name.encode()) > MAX_NAME:
            raise ValueError(f"of {len(name.encode())} bytes: it names a directory, which may have {MAX_NAME}")
        return name

    @property
    def layout(self) -> Layout:
        return Layout(dp=self.dp, pp=self.pp, ep=self.ep, tp=self.tp)

    @property
    def slots(self) -> int:
        """Micro-batches in flight at once."""
        return self.micro_batches or self.pp

    def named(self) -> Self:
        """With a name: the model directory's, if none was given."""
        return self if self.name else self.model_copy(update={"name": self.model.resolve().name})


def complaints(error: ValidationError) -> dict[str, str]:
    """What is wrong, by field: the value, the rule that it breaks and, where there is one, the nearest that does not."""
    return {".".join(map(str, each["loc"])): _complaint(each) for each in error.errors()}


def _complaint(error: Any) -> str:
    field, given = ".".join(map(str, error["loc"])), error["input"]
    if error["type"] == "missing":
        return f"{field} is missing"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, DeploymentSpec.model_fields, 2)
        return f"{field}: there is no such setting" + (f"; near by: {', '.join(near)}" if near else "")
    rule = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] != "literal_error":
        return f"{field} {given!r}: {rule}" if error["type"] != "value_error" else f"{field} {rule}"
    known = [word.strip("' ") for word in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
    asked = str(given).lower()
    near = [_OTHER_NAMES.get(asked, ""), *difflib.get_close_matches(asked, known, 1, cutoff=0.5)]
    nearest = next((name for name in near if name in known), "")
    return f"{field} {given!r}: {rule}" + (f"; nearest: {nearest}" if nearest else "")
