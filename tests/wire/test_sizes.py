import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto
from hypothesis import example, given
from hypothesis import strategies as st

from flower_kd import wire
from flower_kd.wire import sizes

VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.text(max_size=300), st.binary(max_size=300)
)
LISTS = st.one_of(st.lists(st.integers(-300, 300)), st.lists(st.floats()), st.lists(st.text(max_size=5)))


@given(config=st.dictionaries(st.text(max_size=9), st.one_of(VALUES, LISTS)), rows=st.integers(0, 40))
@example(config={"n": -64}, rows=1)
@example(config={"n": -65}, rows=1)
def test_counted_bytes_are_those_of_the_serializer(config: dict, rows: int) -> None:
    """Also for later messages with the same layout, which are not serialized."""
    content = RecordDict({"config": ConfigRecord(config), "rows": wire.encode(np.zeros((rows, 3), np.float32))})
    content["metrics"] = MetricRecord({"loss": 0.5, "samples": rows})
    expected = recorddict_to_proto(content).ByteSize() + wire.METADATA_BYTES
    assert wire.content_bytes(content) == wire.content_bytes(content) == expected


def test_coded_arrays_count_with_their_length() -> None:
    for length in (*range(0, 300, 7), 16_383, 16_384, *range(5000, 10_000)):  # more lengths than sizes are remembered
        content = RecordDict({"logits": ArrayRecord({"rows": wire.as_coded(bytes(length))})})
        expected = recorddict_to_proto(content).ByteSize() + wire.METADATA_BYTES if length % 7 == 0 else 0
        assert wire.content_bytes(content) == expected or length % 7
    assert len(sizes._sizes) <= sizes._MOST_SIZES
