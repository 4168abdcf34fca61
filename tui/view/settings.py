"""The fields of a `DeploymentSpec` that a user sets, as a form has them: text to values and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.flags import SPEC
from tui.view.form import Field, whole_number

_HELP = {name: text for name, _kind, text in SPEC}
_YES, _NO = "yes", "no"
_DTYPES = ("auto", "float32", "bfloat16", "float16")


def _field(name: str, label: str, kind: str = "count", **more: Any) -> Field:
    return Field(name, label, kind, more.pop("help", _HELP.get(name, "")), **more)


def _flag(name: str, label: str) -> Field:
    return _field(name, label, "choice", choices=(_NO, _YES))


MODEL = _field("model", "model", "path", help="a Hugging Face checkpoint's directory; tab completes it")
NAME = _field("name", "name", "text", help="the deployment's", blank="the directory's")
LIVE = (  # what can change while it serves
    _field("tp", "tp"),
    _field("pp", "pp"),
    _field("ep", "ep"),
    _field("dp", "dp"),
    _field("dtype", "dtype", "choice", choices=_DTYPES),
    _field("device", "device", "choice", choices=("auto", "cuda", "cpu")),
    _field("max_model_len", "context", blank="the model's", first=2048),
    _field("max_num_seqs", "batch"),
    _field("max_num_batched_tokens", "step tokens"),
    _field("gpu_memory_utilization", "memory share", "share"),
    _field("kv_cache_bytes", "KV bytes", "size", blank="from the share", first=1 << 28),
    _field("micro_batches", "micro-batches", blank="as stages"),
    _field("block_size", "KV block"),
    _flag("enable_prefix_caching", "prefix caching"),
    _flag("oversubscribe", "oversubscribe"),
    _field("transport", "transport", "choice", choices=("auto", "shm", "gloo", "nccl")),
    _field("threads", "threads", blank="share of cores"),
    _flag("enforce_eager", "no CUDA graphs"),
    _field("stall_timeout_s", "stall s", "text"),
)
NEW = (MODEL, NAME, *LIVE)
DEFAULTS = {"tp": 1, "pp": 1, "ep": 1, "dp": 1, "dtype": "auto", "device": "auto", "max_num_seqs": 256}
DEFAULTS |= {"max_num_batched_tokens": 2048, "gpu_memory_utilization": 0.9, "block_size": 16, "enable_prefix_caching": True}
DEFAULTS |= {"oversubscribe": False, "transport": "auto", "enforce_eager": False, "stall_timeout_s": 30.0}


def as_text(spec: Mapping[str, Any]) -> dict[str, str]:
    """The text of each field; what a spec leaves open is blank."""
    return {of.name: _text(spec.get(of.name)) for of in NEW}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return _YES if value else _NO
    return f"{value:g}" if isinstance(value, float) else str(value)


def as_fields(values: Mapping[str, str]) -> dict[str, Any]:
    """What to make a `DeploymentSpec` of; what is blank is left open. Text that is no value stays text, for it to refuse."""
    kinds = {of.name: of for of in NEW}
    return {name: _value(kinds[name], text.strip()) for name, text in values.items() if name in kinds and text.strip()}


def _value(of: Field, text: str) -> Any:
    if of.choices == (_NO, _YES):
        return {_YES: True, _NO: False}.get(text.lower(), text)
    if of.kind in ("count", "size"):
        number = whole_number(text)
        return text if number is None else number
    return text
