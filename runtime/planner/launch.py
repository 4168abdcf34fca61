"""The command that starts a planned layout: for shardscope, vLLM 0.32, SGLang 0.5.22 and TensorRT-LLM 1.2.

What a plan assumes and an engine would choose otherwise is spelled out: lengths, batch, share of the memory, formats, nodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from shlex import quote

from runtime.checkpoint.config import CheckpointError, parse_shape, read_shape
from runtime.planner.models import find_model, public_repository
from runtime.planner.names import PlanError, load, nearest
from runtime.planner.parameters import Format
from runtime.planner.serving import Prediction

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
# what vLLM and SGLang make of an unquantised checkpoint as they load it
_VLLM_AT_LOAD = {"fp8": "fp8_per_tensor", "fp8-block": "fp8_per_block"}
_SGLANG_AT_LOAD = {"fp8": "fp8"}
_FIRST_PORT = 8000


@dataclass(frozen=True)
class Checkpoint:
    """What an engine loads: `where`, a directory or a repository; `stored`: the format of its weights."""

    where: str
    stored: str
    local: bool
    note: str = ""


def launch_command(engine: str, point: Prediction, model: str) -> str:
    """Shell lines that start the layout. Raises PlanError when it has no such layout, cannot serve or is unknown."""
    if engine not in LAUNCHERS:
        raise PlanError(f"engine '{engine}' is not known; {nearest(engine, LAUNCHERS)}")
    if point.setup.gpu.shared and engine != "shardscope":
        raise PlanError(f"{engine} is not planned for on a CPU's cores: --launch shardscope, or name a --gpu")
    return LAUNCHERS[engine](point, model)


def unserved(model: str, form: Format) -> str:
    """Why our own runtime cannot serve the model in the format; empty when it can. Raises PlanError for an unknown model."""
    if form.name not in _DTYPES:
        return f"shardscope serves {', '.join(_DTYPES)}, no {form.name} weights: plan for one of these with --dtype"
    try:
        if _is_directory(model):
            read_shape(Path(model))
        else:
            config = dict(load("models")[find_model(model).name]["config"])
            parse_shape({key: value for key, value in config.items() if key != "quantization_config"})
    except CheckpointError as error:
        return f"shardscope does not serve {model}: {error}"
    return ""


def _is_directory(model: str) -> bool:
    return (Path(model) / "config.json").is_file()


def _checkpoint(model: str) -> Checkpoint:
    """A directory or a repository as it was typed, else what a named model's is. Raises PlanError when nobody published one."""
    found = find_model(model)
    if _is_directory(model):
        return Checkpoint(model, found.stored_as or "bf16", local=True)
    if model.count("/") == 1 and model.lower() not in load("models")[found.name]["aliases"]:
        return Checkpoint(model, found.stored_as or "bf16", local=False)
    repository = public_repository(found.name)
    if not repository:
        raise PlanError(
            f"{found.name} is a shape without a public checkpoint: nothing can be started; plan for a checkpoint's directory"
        )
    published = find_model(found.name).stored_as or "bf16"
    same = model.lower() in (found.name, repository.rpartition("/")[2].lower())
    note = "" if same else f"# {model} is no repository's whole name: this one has its shape, put the one you mean in its place\n"
    return Checkpoint(repository, published, local=False, note=note)


def _longest(point: Prediction) -> int:
    """Tokens of the longest request. Raises PlanError when no engine would accept it."""
    isl, osl, most = int(point.workload.isl), int(point.workload.osl), point.setup.model.max_position
    if isl + osl > most:
        near = f"--isl {most - osl}" if osl < most else f"--isl {most // 2} --osl {most - most // 2}"
        name = point.setup.model.name
        raise PlanError(f"{isl:,} + {osl:,} tokens: {name}'s positions end at {most:,}; nearest that works: {near}")
    return isl + osl


def _batch(point: Prediction) -> int:
    """Requests in flight of one attention group. At a rate they come as they please: as many as the engine holds."""
    s = point.sharding
    mean = max(1, ceil(point.batch / s.dp / s.attention_dp - 1e-9))
    return mean if point.workload.rate is None else max(mean, point.setup.engine.max_num_seqs)


def _flags(**degrees: int) -> str:
    return "".join(f" --{name.replace('_', '-')} {degree}" for name, degree in degrees.items() if degree > 1)


def _weights(point: Prediction, found: Checkpoint, at_load: Mapping[str, str]) -> tuple[str, str]:
    """The flag that makes the checkpoint's weights those of the plan, and a line that says which checkpoint it takes instead."""
    setup = point.setup
    form, own = setup.form.weights.name, found.stored
    if own in _DTYPES and form in _DTYPES:
        plain = "fp16" if form == "bf16" and not setup.gpu.bfloat16 else form
        # left to themselves engines take fp32 weights as 16 bits
        return (f" --dtype {_DTYPES[plain]}" if plain != own or own == "fp32" else ""), found.note
    if form.partition("-")[0] == own.partition("-")[0]:
        return "", found.note
    if own in _DTYPES and form in at_load:
        return f" --quantization {at_load[form]}", found.note
    return "", f"# put a checkpoint with {form} weights in {found.where}'s place: its own are {own}\n"


def _cache(point: Prediction, engine: str, known: Mapping[str, str]) -> str:
    """The engine's word for the cache's format; empty: that of the activations, which all take. Raises PlanError."""
    form, flops = point.setup.form, point.setup.gpu.flops
    if form.kv.name == form.plain.name:
        return ""
    if form.kv.name not in known or (form.kv.compute == "fp4" and "fp4" not in flops):
        others = [name for name in known if name not in _DTYPES and (name != "nvfp4" or "fp4" in flops)]
        take = " or ".join((form.plain.name, *others))
        raise PlanError(f"{engine} on {point.setup.gpu.name} keeps no {form.kv.name} cache: plan with --kv-dtype {take}")
    return known[form.kv.name]


def _alike(point: Prediction, groups: int, each: int, most: int | None = None) -> int | None:
    """The fewest nodes that so many groups of GPUs take: as many GPUs on every node, whole groups on a node or whole nodes to a
    group. None where the plan's nodes, or `most`, cannot be shared out so."""
    total, node_gpus = groups * each, point.setup.gpu.node_gpus

    def alike(nodes: int) -> bool:
        whole = groups % nodes == 0 or nodes % groups == 0
        return total % nodes == 0 and total // nodes <= node_gpus and whole

    return next(filter(alike, range(1, (most or point.setup.cluster.nodes) + 1)), None)


def _nodes(point: Prediction, groups: int, each: int, engine: str) -> int:
    """`_alike`. Raises PlanError naming what would work."""
    found = _alike(point, groups, each)
    if found is not None:
        return found
    cluster = point.setup.cluster
    full, more = cluster.gpus // cluster.gpu.node_gpus * cluster.gpu.node_gpus, _alike(point, groups, each, groups * each)
    take = [f"--gpus {full}"] * (0 < full < cluster.gpus) + [f"--nodes {more}"] * (more is not None and cluster.gpus % more == 0)
    rule = f"{engine} takes as many GPUs of every node, and of each whole replicas and stages"
    there = f"{cluster.nodes} nodes of {cluster.gpu.node_gpus}"
    raise PlanError(f"{point.sharding} over {there}: {rule}; would work: {' or '.join(take) or 'a power of two for --gpus'}")


def _replicas(point: Prediction, command: str, nodes: int) -> str:
    """The command once for each replica, where an engine has none of its own for the layout. `nodes`: of a replica."""
    s, node_gpus = point.sharding, point.setup.gpu.node_gpus
    if s.dp == 1:
        return command
    words = f"# {s.dp} replicas of {s.replica_ranks} GPU{'s' if s.replica_ranks > 1 else ''} each, behind one load balancer"
    if nodes > 1:
        return f"{words}: start it on {s.dp} times {nodes} nodes, each with its own HEAD\n{command}"
    here = min(s.dp, node_gpus // s.replica_ranks)
    machines, rest = divmod(s.dp, here)
    if machines > 1 or rest:
        last = f", and the first {rest} of them on one more" if rest else ""
        where = f"each of {machines} machines" if machines > 1 else "one machine"
        words += f": start {'it' if here == 1 else 'these'} on {where}{last}"
    if here == 1:
        return f"{words}\n{command}"
    lines = [words]
    for replica in range(here):
        first = replica * s.replica_ranks
        gpus = ",".join(map(str, range(first, first + s.replica_ranks)))
        lines.append(f"CUDA_VISIBLE_DEVICES={gpus} {command} --port {_FIRST_PORT + replica} &")
    return "\n".join([*lines, "wait"])


def _name(directory: str) -> str:
    """A name for the deployment where the directory's own cannot be one."""
    own = Path(directory).resolve().name
    near = re.sub(r"[^\w.-]+", "-", own).strip("-_.") or "model"
    return "" if near == own else f" --name {near}"


def _shardscope(point: Prediction, model: str) -> str:
    s, setup, layout = point.sharding, point.setup, point.sharding.layout
    if layout is None:
        raise PlanError(
            f"shardscope has no layout {s}: its experts are spread over the ep axis alone, as with --engine shardscope"
        )
    if refused := unserved(model, setup.form.weights):
        raise PlanError(f"{refused}; or --launch vllm, sglang or trtllm")
    _cache(point, "shardscope", {})
    if s.replica_ranks > setup.gpu.node_gpus:
        raise PlanError(
            f"shardscope serves on one machine and {s} takes {setup.cluster.nodes}: plan for at most {setup.gpu.node_gpus} GPUs, "
            f"or --launch vllm, sglang or trtllm"
        )
    machines = _nodes(point, s.dp, s.replica_ranks, "shardscope")
    degrees = {axis: degree for axis, degree in layout.asdict().items() if axis in ("tp", "pp", "ep")}
    found, fetch = _checkpoint(model), ""
    dtype, note = _weights(point, found, {})
    source = quote(found.where) + _name(found.where)
    if not found.local:
        source = quote(found.where.rpartition("/")[2])
        fetch = f"hf download {quote(found.where)} --local-dir {source}\n"
    device = " --device cpu" if setup.gpu.shared else ""
    command = f"shardscope deploy {source}{_flags(**degrees, dp=s.dp // machines)}{dtype}{device}"
    where = f"# on each of {machines} machines, behind one load balancer\n" if machines > 1 else ""
    batch = _batch(point)
    limits = f" --max-model-len {_longest(point)} --max-num-seqs {batch}"
    # a step carries a token of each request of its micro-batch
    if (tokens := -(-batch // s.pp)) > setup.engine.max_batched_tokens:
        limits += f" --max-num-batched-tokens {tokens}"
    return f"{note}{where}{fetch}{command}{limits}"


_HEAD = "# on each of {} nodes: HEAD=the first one's address, RANK=0 there, then 1, ...\n"


def _vllm(point: Prediction, model: str) -> str:
    s, setup = point.sharding, point.setup
    if s.ep not in (1, s.stage_ranks):
        raise PlanError(f"vLLM has no layout {s}: it spreads experts over all ranks of a stage or none, as with --engine vllm")
    found, batch, engine = _checkpoint(model), _batch(point), setup.engine
    # of a model without experts, data parallel ranks are replicas; with experts they share them
    replicas = 1 if setup.model.experts or not _alike(point, s.dp, s.replica_ranks) else s.dp
    groups = max(s.attention_dp, replicas)
    degrees = _flags(tensor_parallel_size=s.tp, pipeline_parallel_size=s.pp, data_parallel_size=groups)
    experts = " --enable-expert-parallel" if s.ep > 1 else ""
    experts += " --moe-backend marlin" if setup.form.weights.name == "mxfp4-marlin" else ""
    cache = _cache(point, "vLLM", {"fp8": "fp8", "nvfp4": "nvfp4", "bf16": "bfloat16", "fp16": "float16"})
    weights, note = _weights(point, found, _VLLM_AT_LOAD)
    limits = f" --max-model-len {_longest(point)} --max-num-seqs {batch}"
    limits += f" --max-num-batched-tokens {max(engine.max_batched_tokens, batch)} --gpu-memory-utilization {engine.memory_share}"
    command = f"vllm serve {quote(found.where)}{degrees}{experts}{weights}{cache and f' --kv-cache-dtype {cache}'}{limits}"
    nodes = _nodes(point, groups, s.tp * s.pp, "vLLM")
    if nodes > 1:
        note += _HEAD.format(nodes)
        command += f" --nnodes {nodes} --node-rank $RANK --master-addr $HEAD $([ $RANK = 0 ] || echo --headless)"
    return note + (command if replicas == s.dp else _replicas(point, command, nodes))


def _sglang(point: Prediction, model: str) -> str:
    s, engine = point.sharding, point.setup.engine
    found = _checkpoint(model)
    # its data parallel replicas share a machine, and have no groups of attention
    replicas = s.dp if s.attention_dp == 1 and s.ranks <= point.setup.gpu.node_gpus else 1
    degrees = _flags(tp_size=s.stage_ranks, pp_size=s.pp, ep_size=s.ep, attn_dp_size=s.attention_dp, dp_size=replicas)
    experts = " --moe-runner-backend marlin" if point.setup.form.weights.name == "mxfp4-marlin" else ""
    cache = _cache(point, "SGLang", {"fp8": "fp8_e4m3", "nvfp4": "nvfp4", "bf16": "bf16"})
    weights, note = _weights(point, found, _SGLANG_AT_LOAD)
    if s.attention_dp > 1:
        old = f"--dp-size {s.attention_dp} --enable-dp-attention"
        note += f"# before SGLang 0.5.22: {old} for --attn-dp-size {s.attention_dp}\n"
    # of all groups of attention together, which share both
    limits = f" --context-length {_longest(point)} --max-running-requests {_batch(point) * s.attention_dp}"
    limits += f" --chunked-prefill-size {engine.max_batched_tokens * s.attention_dp} --mem-fraction-static {engine.memory_share}"
    command = f"python -m sglang.launch_server --model-path {quote(found.where)}{degrees}{experts}{weights}"
    command += f"{cache and f' --kv-cache-dtype {cache}'}{limits}"
    nodes = _nodes(point, s.pp, s.stage_ranks, "SGLang")
    if nodes > 1:
        note += _HEAD.format(nodes)
        command += f" --nnodes {nodes} --node-rank $RANK --dist-init-addr $HEAD:5000"
    return note + (command if replicas == s.dp else _replicas(point, command, nodes))


def _trtllm(point: Prediction, model: str) -> str:
    s, setup = point.sharding, point.setup
    if min(s.tp, s.attention_dp) > 1:
        raise PlanError(
            f"TensorRT-LLM has no layout {s}: its attention is all tensor parallel or all data parallel, as with --engine trtllm"
        )
    if setup.form.weights.name == "mxfp4-marlin":
        raise PlanError("TensorRT-LLM has no Marlin kernels: plan with --dtype mxfp4")
    found = _checkpoint(model)
    weights, note = _weights(point, found, {})
    cache = _cache(point, "TensorRT-LLM", {"fp8": "fp8", "nvfp4": "nvfp4"})
    share, chunk = setup.engine.memory_share, setup.engine.max_batched_tokens
    options = ["enable_attention_dp: true"] if s.attention_dp > 1 else []
    options += ["enable_chunked_prefill: true"] if point.workload.isl > chunk else []
    options += [f"dtype: {weights.split()[-1]}"] if weights else []
    # the file's kv_cache_config takes the place of the flag's
    options += [f"kv_cache_config: {{dtype: {cache}, free_gpu_memory_fraction: {share}}}"] if cache else []
    degrees = "".join(f" --{name} {n}" for name, n in (("tp_size", s.stage_ranks), ("pp_size", s.pp), ("ep_size", s.ep)) if n > 1)
    # its batch is that of one micro-batch, of which a pipeline keeps one a stage in flight
    limits = f" --max_seq_len {_longest(point)} --max_batch_size {-(-_batch(point) // s.pp)} --max_num_tokens {chunk}"
    limits += "" if cache else f" --kv_cache_free_gpu_memory_fraction {share}"
    command = f"trtllm-serve {quote(found.where)}{degrees}{limits}"
    if options:
        note += "printf '%s\\n' {} > options.yml\n".format(" ".join(f"'{option}'" for option in options))
        command += " --extra_llm_api_options options.yml"
    nodes = _nodes(point, 1, s.replica_ranks, "TensorRT-LLM")
    if nodes > 1:
        each = s.replica_ranks // nodes
        command = f"srun -N {nodes} --ntasks-per-node {each} --mpi=pmix trtllm-llmapi-launch {command} --gpus_per_node {each}"
    return note + _replicas(point, command, nodes)


LAUNCHERS: dict[str, Callable[[Prediction, str], str]] = {
    "shardscope": _shardscope,
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm": _trtllm,
}
