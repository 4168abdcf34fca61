"""What a rank would hold: by the planner's formulas and the runtime's rules."""

import pytest
from fake_machine import GIB, cpu, gpus

from runtime.checkpoint.config import read_shape
from runtime.layout import Layout
from runtime.planner.models import find_model
from tui.view.fit import Wanted, fit


def wanted(layout, **changes):
    given = {"device": "cuda", "dtype": "bfloat16", "context": None, "batch": 256, "step_tokens": 2048}
    return Wanted(Layout.parse(layout), **{**given, "share": 0.9, "kv_bytes": None, "block": 16, **changes})


@pytest.mark.parametrize(("layout", "weights"), [("tp2", 65.7), ("tp4", 32.9), ("tp8", 16.4)])
def test_a_70b_on_gpus_of_140_gib(layout, weights):
    found = fit(wanted(layout), find_model("llama-3.1-70b"), None, gpus(8, 139.8))
    [stage] = found.stages
    assert stage.weights / GIB == pytest.approx(weights, abs=0.1)
    assert stage.weights + stage.kv + stage.work + stage.left == pytest.approx(stage.total)
    assert found.tokens == pytest.approx(
        (0.9 * stage.total - stage.weights) / (80 * 2 * 8 * 128 * 2 / Layout.parse(layout).tp), rel=0.04
    )
    assert found.verdict.word in ("fits", "tight")


def test_stages_hold_what_they_are_given():
    found = fit(wanted("tp2pp4"), find_model("llama-3.1-70b"), None, gpus(8, 139.8))
    assert [len(stage.layers) for stage in found.stages] == [20, 20, 20, 20]
    ends = found.stages[0].weights
    assert found.stages[3].weights == ends
    assert found.stages[1].weights < ends


@pytest.mark.parametrize(
    ("layout", "changes", "change", "remedy"),
    [
        ("tp1", {"context": 4096}, "tp2 on 2 GPUs", {"dp": 1, "pp": 1, "ep": 1, "tp": 2}),
        ("tp1dp2", {"context": 4096}, "tp2 on the same ranks", {"dp": 1, "pp": 1, "ep": 1, "tp": 2}),
        ("tp2", {"context": 131072, "share": 0.6}, "a context of", {"max_model_len"}),
        ("tp2", {"share": 0.45}, "a memory share of 0.95", {"gpu_memory_utilization": 0.95}),
    ],
)
def test_what_does_not_fit_names_the_smallest_change_that_does(layout, changes, change, remedy):
    model, machine = find_model("llama-3.1-70b"), gpus(8, 139.8)
    found = fit(wanted(layout, **changes), model, None, machine)
    assert found.verdict.word == "no"
    assert found.verdict.change.startswith(change)
    assert found.remedy == remedy or set(found.remedy) == remedy
    renamed = {"max_model_len": "context", "gpu_memory_utilization": "share"}
    layout = Layout(**found.remedy).__str__() if "tp" in found.remedy else layout
    taken = {renamed[name]: value for name, value in found.remedy.items() if name in renamed}
    assert fit(wanted(layout, **{**changes, **taken}), model, None, machine).verdict.word != "no"


def test_a_cache_that_is_too_small_for_what_is_asked_is_tight():
    found = fit(wanted("tp2", context=131072), find_model("llama-3.1-70b"), None, gpus(2, 139.8))
    assert found.verdict.word == "tight"
    assert "the others wait" in found.verdict.reason
    busy = gpus(2, 139.8, free=40)
    assert "GiB of a GPU are free now" in fit(wanted("tp2"), find_model("llama-3.1-70b"), None, busy).verdict.reason


def test_the_cache_on_a_cpu_is_the_runtimes_own_rule():
    """As a daemon took it here, with 18.0 GiB left: KV bytes by stage of the 39.6 M demo model at tp2 pp2."""
    config = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 12, "num_attention_heads": 8}
    config |= {"num_key_value_heads": 4, "vocab_size": 8192, "max_position_embeddings": 4096, "tie_word_embeddings": True}
    from runtime.checkpoint.config import parse_shape
    from runtime.planner.models import read_model

    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32", "head_dim": 64}
    machine = cpu(18.0)
    found = fit(
        wanted("tp2pp2", device="cpu", dtype="float32", context=1024), read_model("demo", config), parse_shape(config), machine
    )
    assert [stage.kv for stage in found.stages] == [1073709056, 766935040]
    assert [stage.weights for stage in found.stages] == pytest.approx([49704960, 37902336], rel=1e-3)


def test_what_the_runtime_can_read_fits_like_what_the_planner_knows(small):
    by_shape = fit(wanted("tp2pp2"), find_model(str(small)), read_shape(small), gpus(4, 80))
    assert sum(len(stage.layers) for stage in by_shape.stages) == 16
    assert len(by_shape.stages[0].layers) > len(by_shape.stages[1].layers)  # the head is work too
