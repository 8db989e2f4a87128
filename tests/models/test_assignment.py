"""Which node trains which model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flower_kd import models
from flower_kd.errors import InputError


@pytest.mark.parametrize(
    ("spec", "num_nodes", "expected"),
    [
        ("lenet5", 3, ["lenet5"] * 3),
        ("lenet5*2,resnet8*1", 3, ["lenet5", "lenet5", "resnet8"]),
        (" lenet5 * 2 , own:model * 1 ", 3, ["lenet5", "lenet5", "own:model"]),
        ("mlp,own.models:wide", 3, ["mlp", "own.models:wide", "mlp"]),
        ("mlp,lenet5,resnet2", 2, ["mlp", "lenet5"]),
        ("mlp*1,lenet5*1,mlp*1", 3, ["mlp", "lenet5", "mlp"]),
    ],
)
def test_assign(spec, num_nodes, expected):
    assert models.assign(spec, num_nodes) == expected


@given(st.lists(st.tuples(st.sampled_from(models.names()), st.integers(1, 5)), min_size=1, max_size=4))
def test_counts_are_kept_in_the_order_of_vertices(parts):
    spec = ",".join(f"{name}*{count}" for name, count in parts)
    assert models.assign(spec, sum(count for _, count in parts)) == [n for n, count in parts for _ in range(count)]


@given(st.lists(st.sampled_from(models.names()), min_size=1, max_size=4), st.integers(1, 20))
def test_names_without_counts_take_turns(names, num_nodes):
    assigned = models.assign(",".join(names), num_nodes)
    assert len(assigned) == num_nodes
    assert all(assigned[vertex] == names[vertex % len(names)] for vertex in range(num_nodes))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lenet5*4,resnet8*4", "is for 8 nodes, but there are 6"),
        ("lenet5*4,resnet8", "every name needs a count"),
        ("lenet5*0", "'0' after '\\*' must be a whole number above 0"),
        ("lenet5*-6", "'-6' after '\\*'"),
        ("lenet5*2.5", "'2.5' after '\\*'"),
        ("lenet5*", "'' after '\\*'"),
        ("lenet5*²", "'²' after '\\*'"),
        ("lenet", "unknown model 'lenet'.*allowed: mlp, .*module:attribute"),
        ("mlp,,lenet5", "'' is neither a name nor module:attribute"),
        ("", "'' is neither a name nor module:attribute"),
    ],
)
def test_a_wrong_spec_is_named(spec, message):
    with pytest.raises(InputError, match=message):
        models.assign(spec, 6)
