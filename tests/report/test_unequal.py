"""What makes the runs of a comparison unequal."""

from flower_kd.cli import presets
from flower_kd.report import unequal
from flower_kd.study import experiment


def test_keys_without_effect_do_not_count() -> None:
    alike = {"a": {"strategy": "silo", "rho": 1.0, "reference-augment": "noise"}, "b": {"strategy": "neighbor-kd"}}
    assert unequal.training(alike) == ""
    mixed = {"c": {"strategy": "d-dist", "reference-augment": "affine", "momentum": 0.5}, **alike}
    assert unequal.training(mixed) == ("differ in momentum (c: 0.5; others: 0), reference-augment (c: affine; b: none)")


def test_many_values_are_on_the_page_only() -> None:
    runs = experiment.read(presets.path_of("preset:digits", experiment=True), {})
    assert unequal.training(runs) == (
        "differ in model, learning-rate, schedule, reference-augment: see the page of flower-kd report"
    )


def test_what_the_user_deleted_is_no_obstacle() -> None:
    runs = {"a": {"strategy": "no_module_:x", "batch-size": 8}, "b": {"strategy": "silo"}}
    assert unequal.training(runs) == "differ in batch-size (a: 8; b: 32)"


def test_initial_weights() -> None:
    began = {"a": "common", "b": "separate", "c": "separate", "failed": ""}
    assert unequal.initial_weights(began) == "common initial weights: a; separate initial weights: b, c"
    assert unequal.initial_weights({"a": "common", "failed": ""}) == ""
