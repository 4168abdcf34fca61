"""The command that starts a planned layout: for shardscope, vLLM 0.32, SGLang 0.5 and TensorRT-LLM 1.2.

What a plan assumes and an engine would choose otherwise is spelled out: lengths, batch, share of the memory, formats, nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from shlex import quote

from runtime.checkpoint.config import CheckpointError, parse_shape, read_shape
from runtime.planner.models import find_model, public_repository
from runtime.planner.names import PlanError, load, nearest
from runtime.planner.parameters import Format
from runtime.planner.serving import Prediction

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_AT_LOAD = {"fp8": "fp8"}  # vLLM and SGLang make these weights of an unquantised checkpoint as they load it


def launch_command(engine: str, point: Prediction, model: str) -> str:
    """Shell lines that start `point` under the engine. Raises PlanError when it has no such layout, cannot serve or is unknown."""
    if engine not in LAUNCHERS:
        raise PlanError(f"engine '{engine}' is not known; {nearest(engine, LAUNCHERS)}")
    return LAUNCHERS[engine](point, model)


def unserved(model: str, form: Format) -> str:
    """Why our own runtime cannot serve the model in the format; empty when it can."""
    if form.name not in _DTYPES:
        return f"shardscope serves {', '.join(_DTYPES)}, no {form.name} weights: plan for one of these with --dtype"
    try:
        if (Path(model) / "config.json").is_file():
            read_shape(Path(model))
        else:
            config = dict(load("models")[find_model(model).name]["config"])
            parse_shape({key: value for key, value in config.items() if key != "quantization_config"})
    except CheckpointError as error:
        return f"shardscope does not serve {model}: {error}"
    return ""


def _limits(point: Prediction) -> tuple[int, int]:
    """Longest request, and requests in flight of one attention group."""
    s = point.sharding
    longest = int(point.workload.isl + point.workload.osl)
    return longest, max(1, round(point.batch / s.dp / s.attention_dp))


def _flags(**degrees: int) -> str:
    return "".join(f" --{name.replace('_', '-')} {degree}" for name, degree in degrees.items() if degree > 1)


def _source(model: str) -> str:
    """What an engine loads: a directory as it was typed, else a repository. Raises PlanError when nobody published one."""
    if (Path(model) / "config.json").is_file() or model.count("/") == 1:
        return quote(model)
    try:
        name = find_model(model).name
    except PlanError:
        return quote(model)
    found = public_repository(name)
    if not found:
        raise PlanError(
            f"{name} is a shape without a public checkpoint: nothing can be started; plan for a checkpoint's directory"
        )
    return quote(found)


def _weights(point: Prediction, model: str, at_load: Mapping[str, str]) -> tuple[str, str]:
    """The flag that makes the checkpoint's weights those of the plan, and a line that says which checkpoint it takes instead."""
    setup = point.setup
    form, own = setup.form.weights.name, setup.model.stored_as or "bf16"
    if own in _DTYPES and form in _DTYPES:
        plain = "fp16" if form == "bf16" and not setup.gpu.bfloat16 else form
        return (f" --dtype {_DTYPES[plain]}" if plain != own else ""), ""
    if form.partition("-")[0] == own.partition("-")[0]:
        return "", "export VLLM_MXFP4_USE_MARLIN=1\n" if form == "mxfp4-marlin" else ""
    if own in _DTYPES and form in at_load:
        return f" --quantization {at_load[form]}", ""
    return "", f"# takes a checkpoint with {form} weights: {model}'s are {own}\n"


def _replicas(point: Prediction, command: str) -> str:
    """The command once for each replica, where an engine has none of its own for the layout."""
    s = point.sharding
    if s.dp == 1:
        return command
    if s.ranks > point.setup.gpu.node_gpus:
        words = f"# {s.dp} replicas of {s.replica_ranks} GPUs each, behind one load balancer: start it {s.dp} times"
        return f"{words}, each with its own CUDA_VISIBLE_DEVICES and --port\n{command}"
    lines = [f"# {s.dp} replicas of {s.replica_ranks} GPUs each, behind one load balancer"]
    for replica in range(s.dp):
        first = replica * s.replica_ranks
        gpus = ",".join(map(str, range(first, first + s.replica_ranks)))
        lines.append(f"CUDA_VISIBLE_DEVICES={gpus} {command} --port {8000 + replica} &")
    return "\n".join([*lines, "wait"])


def _nodes(point: Prediction, ranks: int) -> int:
    """That so many ranks take."""
    return -(-ranks // point.setup.gpu.node_gpus)


def _shardscope(point: Prediction, model: str) -> str:
    s, layout = point.sharding, point.sharding.layout
    if layout is None:
        raise PlanError(f"shardscope has no layout {s}: its experts are spread over the ep axis alone")
    setup = point.setup
    refused = unserved(model, setup.form.weights)
    if refused:
        raise PlanError(refused)
    nodes = _nodes(point, s.ranks)
    if s.dp % nodes or s.replica_ranks > setup.gpu.node_gpus:
        raise PlanError(
            f"shardscope serves on one machine and {s} takes {nodes}: plan for at most {setup.gpu.node_gpus} GPUs, or --launch vllm"
        )
    longest, batch = _limits(point)
    degrees = {axis: degree for axis, degree in layout.asdict().items() if axis in ("tp", "pp", "ep")}
    dtype, _ = _weights(point, model, {})
    device = " --device cpu" if setup.gpu.shared else ""
    source, fetch = _source(model), ""
    if not (Path(model) / "config.json").is_file():
        source, fetch = quote(source.rpartition("/")[2]), f"hf download {source} --local-dir {quote(source.rpartition('/')[2])}\n"
    command = f"shardscope deploy {source}{_flags(**degrees, dp=s.dp // nodes)}{dtype}{device}"
    where = f"# on each of {nodes} machines, behind one load balancer\n" if nodes > 1 else ""
    return f"{where}{fetch}{command} --max-model-len {longest} --max-num-seqs {batch}"


def _vllm(point: Prediction, model: str) -> str:
    s, setup = point.sharding, point.setup
    if s.ep not in (1, s.stage_ranks):
        raise PlanError(f"vLLM has no layout {s}: it spreads experts over all ranks of a stage or splits them all")
    longest, batch = _limits(point)
    # of a model without experts, data parallel ranks are replicas; with experts they share them
    replicas = 1 if setup.model.experts else s.dp
    degrees = _flags(tensor_parallel_size=s.tp, pipeline_parallel_size=s.pp, data_parallel_size=max(s.attention_dp, replicas))
    experts = " --enable-expert-parallel" if s.ep > 1 else ""
    cache = " --kv-cache-dtype fp8" if setup.form.kv.name.startswith("fp8") else ""
    weights, note = _weights(point, model, _AT_LOAD)
    engine = setup.engine
    limits = f" --max-model-len {longest} --max-num-seqs {batch} --max-num-batched-tokens {max(engine.max_batched_tokens, batch)}"
    command = (
        f"vllm serve {_source(model)}{degrees}{experts}{weights}{cache}{limits} --gpu-memory-utilization {engine.memory_share}"
    )
    nodes = _nodes(point, s.replica_ranks * replicas)
    if nodes > 1:
        note += f"# on each of {nodes} nodes: HEAD=the first one's address, RANK=0 there, then 1, ...\n"
        command += f" --nnodes {nodes} --node-rank $RANK --master-addr $HEAD $([ $RANK = 0 ] || echo --headless)"
    return note + (command if replicas == s.dp else _replicas(point, command))


def _sglang(point: Prediction, model: str) -> str:
    s, engine = point.sharding, point.setup.engine
    longest, batch = _limits(point)
    # its data parallel ranks are replicas, or groups of attention; both within a node
    replicas = s.dp if s.attention_dp == 1 and s.ranks <= point.setup.gpu.node_gpus else 1
    degrees = _flags(tp_size=s.stage_ranks, pp_size=s.pp, ep_size=s.ep, dp_size=max(s.attention_dp, replicas))
    attention = " --enable-dp-attention" if s.attention_dp > 1 else ""
    cache = " --kv-cache-dtype fp8_e4m3" if point.setup.form.kv.name.startswith("fp8") else ""
    weights, note = _weights(point, model, _AT_LOAD)
    limits = f" --context-length {longest} --max-running-requests {batch * max(s.attention_dp, replicas)}"
    limits += f" --chunked-prefill-size {engine.max_batched_tokens} --mem-fraction-static {engine.memory_share}"
    command = f"python -m sglang.launch_server --model-path {_source(model)}{degrees}{attention}{weights}{cache}{limits}"
    nodes = _nodes(point, s.replica_ranks)
    if nodes > 1:
        note += f"# on each of {nodes} nodes: HEAD=the first one's address, RANK=0 there, then 1, ...\n"
        command += f" --nnodes {nodes} --node-rank $RANK --dist-init-addr $HEAD:5000"
    return note + (command if replicas == s.dp else _replicas(point, command))


def _trtllm(point: Prediction, model: str) -> str:
    s, setup = point.sharding, point.setup
    if min(s.tp, s.attention_dp) > 1:
        raise PlanError(f"TensorRT-LLM has no layout {s}: its attention is all tensor parallel or all data parallel")
    longest, batch = _limits(point)
    degrees = "".join(f" --{name} {n}" for name, n in (("tp_size", s.stage_ranks), ("pp_size", s.pp), ("ep_size", s.ep)) if n > 1)
    weights, note = _weights(point, model, {})
    options = ["enable_attention_dp: true"] if s.attention_dp > 1 else []
    if weights:
        options.append(f"dtype: {weights.split()[-1]}")
    if setup.form.kv.name.startswith("fp8"):
        options.append("kv_cache_config: {dtype: fp8}")
    # its batch is that of one micro-batch, of which a pipeline keeps one a stage in flight
    limits = f" --max_seq_len {longest} --max_batch_size {-(-batch // s.pp)} --max_num_tokens {setup.engine.max_batched_tokens}"
    limits += f" --kv_cache_free_gpu_memory_fraction {setup.engine.memory_share}"
    chunked = " --enable_chunked_prefill" if point.workload.isl > setup.engine.max_batched_tokens else ""
    command = f"trtllm-serve {_source(model)}{degrees}{limits}{chunked}"
    if options:
        lines = " ".join(f"'{option}'" for option in options)
        note += f"printf '%s\\n' {lines} > options.yml\n"
        command += " --extra_llm_api_options options.yml"
    nodes = _nodes(point, s.replica_ranks)
    if nodes > 1:
        each = -(-s.replica_ranks // nodes)
        command = f"srun -N {nodes} --ntasks-per-node {each} --mpi=pmix trtllm-llmapi-launch {command}"
    return note + _replicas(point, command)


LAUNCHERS: dict[str, Callable[[Prediction, str], str]] = {
    "shardscope": _shardscope,
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm": _trtllm,
}
