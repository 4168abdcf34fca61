"""A spec that cannot be says which value, which rule, and what would do."""

import pytest
from pydantic import ValidationError

from runtime.spec import DeploymentSpec, complaints

NAME_RULE = "a name begins with a letter or digit and goes on with these, '-', '_' and '.'"


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"dtype": "bf16"}, "dtype", "dtype 'bf16': should be 'auto', 'float32', 'bfloat16' or 'float16'; nearest: bfloat16"),
        ({"dtype": "fp8"}, "dtype", "dtype 'fp8': should be 'auto', 'float32', 'bfloat16' or 'float16'"),
        ({"device": "gpu"}, "device", "device 'gpu': should be 'auto', 'cuda' or 'cpu'; nearest: cuda"),
        ({"tp": 0}, "tp", "tp 0: should be greater than or equal to 1"),
        (
            {"gpu_memory_utilization": 1.5},
            "gpu_memory_utilization",
            "gpu_memory_utilization 1.5: should be less than or equal to 1",
        ),
        ({"mx_model_len": 1}, "mx_model_len", "mx_model_len: there is no such setting; near by: max_model_len"),
        ({"name": "-x"}, "name", f"name '-x': {NAME_RULE}; give it another with --name, as --name x"),
        ({"name": "my model"}, "name", f"name 'my model': {NAME_RULE}; give it another with --name, as --name my-model"),
    ],
)
def test_the_value_the_rule_the_nearest(fields, field, words):
    with pytest.raises(ValidationError) as refused:
        DeploymentSpec.model_validate({"model": "/models/x", **fields})
    assert complaints(refused.value) == {field: words}


def test_a_spec_without_a_model():
    with pytest.raises(ValidationError) as refused:
        DeploymentSpec.model_validate({})
    assert complaints(refused.value) == {"model": "model is missing"}
