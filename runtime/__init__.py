"""The runtime: real checkpoints under any TP x PP x EP x DP layout.

`LLM` and `SamplingParams` are the offline interface, with vLLM's argument names.
"""

from typing import TYPE_CHECKING, Any

from runtime.sampling import SamplingParams

if TYPE_CHECKING:
    from runtime.llm import LLM

__all__ = ["LLM", "SamplingParams"]


def __getattr__(name: str) -> Any:
    if name == "LLM":
        from runtime.llm import LLM

        return LLM
    raise AttributeError(name)
