"""What a model's description says after it was written and read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_kd.models.card import Cards, ModelCard

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def cards(draw: st.DrawFn) -> ModelCard:
    labels = draw(st.lists(texts, min_size=1, max_size=5))
    channels = draw(st.integers(1, 3))
    values = st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * channels)
    shape = (channels, draw(st.integers(1, 99)), draw(st.integers(1, 99)))
    return ModelCard(draw(texts), len(labels), shape, draw(values), draw(values), tuple(labels))


@given(st.dictionaries(st.integers(0, 2**31), cards(), min_size=1, max_size=4), st.dictionaries(texts, st.integers(0)))
def test_cards_are_read_as_they_were_written(of: dict[int, ModelCard], names: dict[str, int]) -> None:
    found = Cards.from_toml(Cards(of, names).to_toml())
    assert found == Cards(of, names)
    for card in of.values():
        assert ModelCard.from_json(card.to_json()) == card


def test_nodes_with_equal_cards_share_a_table() -> None:
    card, other = (ModelCard(name, 2, (1, 8, 8), (0.5,), (0.5,), ("a", "b")) for name in ("mlp", "lenet5"))
    text = Cards({0: card, 1: other, 2: card}).to_toml()
    assert text.count("[[models]]") == 2
    assert text.count("labels") == 2


@pytest.mark.parametrize(
    "text",
    [
        "models = 3",
        "",
        "[[models]]\nnodes = [0]",
        '[[models]]\nnodes = ["a"]\nfactory = "mlp"\nclasses = 1\nshape = [1, 8, 8]\nmean = [0]\nstd = [1]\nlabels = ["a"]',
        '[[models]]\nnodes = [0]\nfactory = "mlp"\nclasses = 2\nshape = [1, 8, 8]\nmean = [0]\nstd = [1]\nlabels = ["a"]',
        '[[models]]\nnodes = [0]\nfactory = "mlp"\nclasses = 1\nshape = [3, 8, 8]\nmean = [0]\nstd = [1]\nlabels = ["a"]',
    ],
)
def test_other_content_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Cards.from_toml(text)
