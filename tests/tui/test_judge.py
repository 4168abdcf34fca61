"""What cannot be is told at its field: the value, the rule, the nearest that works."""

import pytest
from fake_machine import asked, written

from runtime.spec import DeploymentSpec
from tui.view.judgement import Judgement
from tui.view.settings import as_text


def test_a_path_that_is_no_checkpoint(judge, small):
    typo = small.parent / "smal-1b"
    assert judge.judge(asked(typo)).wrong["model"] == f"model {typo} is not a directory; near by: {small}"
    assert "which one?" in judge.judge(asked("")).wrong["model"]
    (small.parent / "empty").mkdir()
    assert "has no config.json" in judge.judge(asked(small.parent / "empty")).wrong["model"]


def test_a_layout_that_the_model_cannot_take(judge, small):
    found = judge.judge(asked(small, tp="3"))
    [words] = set(found.wrong.values())
    assert list(found.wrong) == ["tp"]
    assert "tp 3: 32 attention heads do not divide by it" in words
    assert "Nearest that work: dp3, pp3" in words
    assert (found.remedy["tp"], found.remedy["dp"], found.remedy_words) == (1, 3, "dp3")
    assert found.fit is None


def test_a_405b_on_this_machine(judge, tmp_path):
    found = judge.judge(asked(written(tmp_path / "llama-405b", torch_dtype="bfloat16")))
    assert found.wrong == {}
    assert found.fit.verdict.word == "no"
    assert "weights 755.96" in found.fit.verdict.reason
    assert "more than the 16.00 GiB of a rank" in found.fit.verdict.reason
    assert "a machine with more" in found.fit.verdict.change


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("dtype", "fp8", "dtype 'fp8': should be 'auto', 'float32', 'bfloat16' or 'float16'"),
        ("dtype", "bf16", "nearest: bfloat16"),
        ("tp", "two", "tp 'two': should be a valid integer"),
        ("pp", "0", "pp 0: should be greater than or equal to 1"),
        ("pp", "40", "pp 40: the model has only 16 layers"),
        ("ep", "2", "ep 2: the model has no experts (use dp 2 for more replicas)"),
        ("max_model_len", "900000", "the model's positions end at 131072"),
        ("gpu_memory_utilization", "1.5", "less than or equal to 1"),
        ("device", "cuda", "What works: --device cpu"),
        ("transport", "nccl", "NCCL needs a GPU for each rank"),
        ("name", "-x", "a name begins with a letter or digit"),
        ("dp", "1000000000", "1,024"),
    ],
)
def test_a_value_that_cannot_be_is_told_at_its_field(judge, small, field, value, words):
    found = judge.judge(asked(small, **{field: value}))
    assert words in found.wrong[field]


def test_a_name_that_is_taken(judge, small):
    found = judge.judge(asked(small), taken=("small-1b", "small-1b-2"))
    assert found.wrong == {"name": "name 'small-1b': a deployment of that name runs; free: small-1b-3"}
    assert found.remedy == {"name": "small-1b-3"}


def test_a_change_is_what_differs_from_what_runs(judge, small):
    current = DeploymentSpec(model=small, name="t", tp=2, max_model_len=512, max_num_seqs=16).model_dump(mode="json")
    found = judge.judge({**as_text(current), "tp": "1", "pp": "2", "max_model_len": ""}, current)
    assert found.changes == {"pp": (1, 2), "tp": (2, 1), "max_model_len": (512, None)}
    assert judge.judge(as_text(current), current).changes == {}


def test_a_judgement_without_a_spec_changes_nothing():
    assert Judgement().changes == {}
    assert Judgement().ranks == 0
