"""The command that starts a planned layout: for shardscope, vLLM, SGLang and TensorRT-LLM."""

from __future__ import annotations

from collections.abc import Callable

from runtime.planner.names import PlanError, nearest
from runtime.planner.serving import Prediction


def launch_command(engine: str, point: Prediction, model: str) -> str:
    """Shell lines that start `point` under the engine. Raises PlanError when it has no such layout or is unknown."""
    if engine not in LAUNCHERS:
        raise PlanError(f"engine '{engine}' is not known; {nearest(engine, LAUNCHERS)}")
    return LAUNCHERS[engine](point, model)


_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def _limits(point: Prediction) -> tuple[int, int]:
    """Longest request, and requests that one attention group steps at once."""
    s = point.sharding
    longest = int(point.workload.isl + point.workload.osl)
    return longest, max(1, round(point.batch / s.dp / s.attention_dp))


def _flags(**degrees: int) -> str:
    return "".join(f" --{name.replace('_', '-')} {degree}" for name, degree in degrees.items() if degree > 1)


def _copies(point: Prediction, command: str) -> str:
    """A line says how often to start a command whose engine has no replicas of its own for this layout."""
    s = point.sharding
    if s.dp == 1:
        return command
    return f"# {s.dp} replicas of {s.replica_ranks} GPUs each, behind one load balancer\n{command}"


def _shardscope(point: Prediction, model: str) -> str:
    layout = point.sharding.layout
    if layout is None:
        raise PlanError(f"shardscope has no layout {point.sharding}: its experts are spread over the ep axis alone")
    setup = point.setup
    form, own = setup.form.weights.name, setup.model.stored_as or "bf16"
    if form not in _DTYPES:
        raise PlanError(f"shardscope serves {', '.join(_DTYPES)}, no {form} weights: plan for one of these with --dtype")
    longest, batch = _limits(point)
    degrees = {axis: degree for axis, degree in layout.asdict().items() if axis in ("tp", "pp", "ep", "dp")}
    dtype = f" --dtype {_DTYPES[form]}" if form != own else ""
    device = " --device cpu" if setup.gpu.shared else ""
    return f"shardscope deploy {model}{_flags(**degrees)}{dtype}{device} --max-model-len {longest} --max-num-seqs {batch}"


def _vllm(point: Prediction, model: str) -> str:
    s, form = point.sharding, point.setup.form
    if s.ep not in (1, s.stage_ranks):
        raise PlanError(f"vLLM has no layout {s}: it spreads experts over all ranks of a stage or splits them all")
    longest, batch = _limits(point)
    degrees = _flags(tensor_parallel_size=s.tp, pipeline_parallel_size=s.pp, data_parallel_size=s.attention_dp)
    experts = " --enable-expert-parallel" if s.ep > 1 else ""
    cache = " --kv-cache-dtype fp8" if form.kv.name.startswith("fp8") else ""
    share = point.setup.engine.memory_share
    limits = f" --max-model-len {longest} --max-num-seqs {batch} --gpu-memory-utilization {share}"
    return _copies(point, f"vllm serve {model}{degrees}{experts}{limits}{cache}")


def _sglang(point: Prediction, model: str) -> str:
    s = point.sharding
    longest, batch = _limits(point)
    degrees = _flags(tp_size=s.stage_ranks, pp_size=s.pp, ep_size=s.ep)
    attention = f" --dp-size {s.attention_dp} --enable-dp-attention" if s.attention_dp > 1 else ""
    cache = " --kv-cache-dtype fp8_e4m3" if point.setup.form.kv.name.startswith("fp8") else ""
    limits = f" --context-length {longest} --max-running-requests {batch * s.attention_dp}"
    return _copies(point, f"python -m sglang.launch_server --model-path {model}{degrees}{attention}{limits}{cache}")


def _trtllm(point: Prediction, model: str) -> str:
    s = point.sharding
    if min(s.tp, s.attention_dp) > 1:
        raise PlanError(f"TensorRT-LLM has no layout {s}: its attention is all tensor parallel or all data parallel")
    longest, batch = _limits(point)
    degrees = "".join(f" --{name} {n}" for name, n in (("tp_size", s.stage_ranks), ("pp_size", s.pp), ("ep_size", s.ep)) if n > 1)
    options = ["enable_attention_dp: true"] if s.attention_dp > 1 else []
    if point.setup.form.kv.name.startswith("fp8"):
        options.append("kv_cache_config: {dtype: fp8}")
    command = f"trtllm-serve {model}{degrees} --max_seq_len {longest} --max_batch_size {batch}"
    if options:
        lines = " ".join(f"'{option}'" for option in options)
        command = f"printf '%s\\n' {lines} > options.yml\n{command} --extra_llm_api_options options.yml"
    return _copies(point, command)


LAUNCHERS: dict[str, Callable[[Prediction, str], str]] = {
    "shardscope": _shardscope,
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm": _trtllm,
}
