"""The run-config keys in words."""

from flower_kd.config import RunConfig
from flower_kd.keys import keys


def test_every_key_has_its_default_its_values_and_a_meaning() -> None:
    found = {key.name: key for key in keys()}
    assert list(found) == list(RunConfig().to_dict())
    assert all(key.meaning.endswith(".") and key.allowed for key in found.values())
    assert found["validation-share"].meaning.startswith("Share of its private samples that each node holds out, at")
    assert found["validation-share"].meaning.endswith("beside the final one; 0 for none.")
    assert found["resume"].meaning == "Whether to continue an interrupted run there, or show a finished one."
    alpha, coding, overwrite = found["alpha"], found["wire-coding"], found["overwrite"]
    assert (alpha.default, alpha.kind, alpha.allowed) == ("0.5", "", "number, at least 0 and at most 1")
    assert (coding.default, coding.allowed) == ("plain", "plain, entropy, delta")
    assert (overwrite.default, overwrite.allowed) == ("false", "true or false")
    assert (found["pooling"].kind, found["reference-augment"].kind) == ("pooling", "augment")
