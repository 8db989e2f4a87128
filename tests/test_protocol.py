import numpy as np
import pytest
from flwr.app import ConfigRecord
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from flower_kd import models
from flower_kd.errors import InputError
from flower_kd.parts.text import LONGEST
from flower_kd.protocol import Greeting, Hello, Order, PartName, exchanged_rows


def test_records_travel() -> None:
    order = Order(server_round=3, num_steps=5, seed=7, reply="logits", temperature=2.5, kd_weight=0.25)
    assert Order.from_record(order.to_record()) == order
    assert "kd-weight" in order.to_record()
    for counts in ([], [3, 0, 7]):
        hello = Hello(vertex=2, name="b", classes=10, fingerprint="ab", class_counts=counts)
        assert Hello.from_record(hello.to_record()) == hello
        assert ("class-counts" in hello.to_record()) == bool(counts)


def test_defaults_are_not_sent() -> None:
    assert dict(Order(server_round=1, num_steps=5).to_record()) == {"server-round": 1, "num-steps": 5}
    assert dict(Order(1, 5, reply="logits", keep=True, exchange=0).to_record()) == {
        "server-round": 1,
        "num-steps": 5,
        "reply": "logits",
        "keep": True,
    }
    assert dict(Greeting().to_record()) == {}
    assert Greeting.from_record(Greeting(wire_coding="delta").to_record()) == Greeting(wire_coding="delta")


def test_a_record_of_another_sender_is_refused() -> None:
    with pytest.raises(InputError, match="another version or sender"):
        Order.from_record(ConfigRecord({"lr": 0.1}))


def test_steps_follow_from_the_round_where_flower_sends_no_step() -> None:
    assert Order(server_round=3, num_steps=50).first_step == 100
    assert Order(server_round=3, num_steps=50, step=7).first_step == 7


@given(seed=st.integers(0, 5), size=st.integers(1, 50), count=st.integers(1, 60), start=st.integers(0, 100))
def test_a_pass_meets_each_row_at_most_once(seed: int, size: int, count: int, start: int) -> None:
    if count >= size:
        assert np.array_equal(exchanged_rows(seed, start, size, count), np.arange(size))
        return
    per_pass = size // count
    rows = np.concatenate([exchanged_rows(seed, start * per_pass + i, size, count) for i in range(per_pass)])
    assert len(set(rows.tolist())) == per_pass * count
    assert set(rows.tolist()) <= set(range(size))


def test_both_sides_compute_the_same_rows_and_seeds_differ() -> None:
    assert np.array_equal(exchanged_rows(1, 9, 100, 10), exchanged_rows(1, 9, 100, 10))
    assert not np.array_equal(exchanged_rows(1, 9, 100, 10), exchanged_rows(2, 9, 100, 10))
    assert np.array_equal(exchanged_rows(1, 9, 100, 0), np.arange(100))


def test_a_model_may_be_as_long_as_any_part() -> None:
    text = f"my.parts:net(name={'a' * (LONGEST - 19)})"
    assert len(text) == LONGEST
    assert models.MODELS.parse(text).arguments
    assert TypeAdapter(PartName).validate_python(text) == text
    assert Hello.__annotations__["model"] == "PartName"
