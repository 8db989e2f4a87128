"""What a model's description says after it was written and read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_kd.models.card import Cards, ModelCard, Score

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def cards(draw: st.DrawFn) -> ModelCard:
    labels = draw(st.lists(texts, min_size=1, max_size=5))
    channels = draw(st.integers(1, 3))
    means = st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * channels)
    deviations = st.tuples(*[st.floats(0, exclude_min=True, allow_infinity=False)] * channels)
    shape = (channels, draw(st.integers(1, 99)), draw(st.integers(1, 99)))
    return ModelCard(draw(texts), len(labels), shape, draw(means), draw(deviations), tuple(labels))


scores = st.builds(Score, st.integers(1, 2**31), st.floats(0, 1), st.floats(0, 1e9))


@given(
    st.dictionaries(st.integers(0, 2**31), cards(), min_size=1, max_size=4),
    st.dictionaries(texts, st.integers(0)),
    st.dictionaries(st.integers(0, 2**31), scores, max_size=3),
)
def test_cards_are_read_as_they_were_written(
    of: dict[int, ModelCard], names: dict[str, int], best: dict[int, Score]
) -> None:
    found = Cards.from_toml(Cards(of, names, best).to_toml())
    assert found == Cards(of, names, best)
    for card in of.values():
        assert ModelCard.from_json(card.to_json()) == card


def test_nodes_with_equal_cards_share_a_table() -> None:
    card, other = (ModelCard(name, 2, (1, 8, 8), (0.5,), (0.5,), ("a", "b")) for name in ("mlp", "lenet5"))
    text = Cards({0: card, 1: other, 2: card}).to_toml()
    assert text.count("[[models]]") == 2
    assert text.count("labels") == 2


TABLE = """
[[models]]
nodes = [0]
factory = "mlp"
classes = 1
shape = [1, 8, 8]
mean = [0]
std = [1]
labels = ["a"]
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (TABLE, ""),
        (TABLE, "models = 3"),
        ("nodes = [0]", ""),
        ("nodes = [0]", 'nodes = ["a"]'),
        ("nodes = [0]", "nodes = 0"),
        ('factory = "mlp"', ""),
        ("classes = 1", "classes = 2"),
        ("shape = [1,", "shape = [3,"),
        ("std = [1]", "std = [1, 1]"),
        (TABLE, TABLE + "[best.0]\nround = 3\n"),
        (TABLE, TABLE + "[best.a]\nround = 3\naccuracy = 0.5\nloss = 1.0\n"),
    ],
)
def test_other_content_is_a_value_error(old: str, new: str) -> None:
    assert Cards.from_toml(TABLE).of[0].labels == ("a",)
    with pytest.raises(ValueError, match=r"\w"):
        Cards.from_toml(TABLE.replace(old, new))
