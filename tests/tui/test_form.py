"""The form: how a value turns, what was typed, what was changed."""

import pytest

from runtime.spec import DeploymentSpec
from tui.view.form import Field, Form, turned, whole_number
from tui.view.settings import DEFAULTS, LIVE, NEW, as_fields, as_text


@pytest.mark.parametrize(
    ("kind", "before", "step", "after"),
    [
        ("count", "1", 1, "2"),
        ("count", "3", 1, "4"),
        ("count", "3", -1, "2"),
        ("count", "1", -1, "1"),
        ("count", "nonsense", 1, "1"),
        ("count", "", 1, "1"),
        ("share", "0.9", 1, "0.95"),
        ("share", "1", 1, "1"),
        ("share", "0.05", -1, "0.05"),
        ("share", "x", 1, "0.9"),
        ("choice", "a", 1, "b"),
        ("choice", "a", -1, "c"),
        ("choice", "typed", 1, "b"),
        ("text", "as it is", 1, "as it is"),
    ],
)
def test_a_value_turns(kind, before, step, after):
    assert turned(Field("f", "f", kind, "", ("a", "b", "c")), before, step) == after


def test_a_value_that_may_be_left_open_turns_from_blank_and_back_to_it():
    context = next(of for of in LIVE if of.name == "max_model_len")
    first = turned(context, "", 1)
    assert first == "2048"
    assert turned(context, first, 1) == "4096"
    assert turned(context, first, -1) == ""


@pytest.mark.parametrize(
    ("given", "number"),
    [
        ("4096", 4096),
        ("1,000", 1000),
        ("4Gi", 4 << 30),
        ("512 MiB", 512 << 20),
        ("", None),
        ("-1", None),
        ("1e3", None),
        ("9" * 40, None),
    ],
)
def test_numbers_as_people_write_them(given, number):
    assert whole_number(given) == number


def test_a_form_knows_what_was_changed_and_keeps_it_over_other_values():
    form = Form((Field("a", "a", "count", ""), Field("b", "b", "text", "")), {"a": "1", "b": "x"}).put(a="2", c="unknown")
    assert form.changed == ("a",)
    assert form.on({"a": "2", "b": "y"}).changed == ()
    assert form.on({"a": "2", "b": "y"}).values == {"a": "2", "b": "y"}
    assert form.move(-1).at == 0
    assert form.move(9).at == 1
    assert form.reset().changed == ()


def test_every_setting_of_a_spec_goes_through_the_form_unchanged():
    spec = DeploymentSpec(model="/models/x", name="x", tp=2, dtype="bfloat16", max_model_len=512, enable_prefix_caching=False)
    assert DeploymentSpec.model_validate(as_fields(as_text(spec.model_dump(mode="json")))) == spec
    assert {of.name for of in NEW} | {"telemetry", "seed"} == set(DeploymentSpec.model_fields)
    defaults = DeploymentSpec(model="/models/x").model_dump(mode="json")
    assert {name: defaults[name] for name in DEFAULTS} == DEFAULTS
