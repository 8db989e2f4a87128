"""How a node counts its samples of each class."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from conftest import CLASSES, blobs, build_blob_node
from flwr.app import Context, RecordDict
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from flower_kd.clients import Node, ShuffledBatches
from flower_kd.clients.class_counts import class_counts, remember_class_counts, remembered_class_counts
from flower_kd.errors import InputError

INPUTS, LABELS = blobs(0, 20)
WHOLE = TensorDataset(INPUTS, LABELS)
COUNTS = [int((label == LABELS).sum()) for label in range(CLASSES)]


class OnDisk(Dataset):
    """Samples that are read one by one; counts how often."""

    def __init__(self, labels: torch.Tensor = LABELS) -> None:
        self.labels, self.read = labels, 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        self.read += 1
        return INPUTS[row], int(self.labels[row])


class Own:
    """Private data of a user's own."""

    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)

    def batches(self, first_step: int, num_steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from [(INPUTS, LABELS)] * num_steps

    def __len__(self) -> int:
        return 20


def node_with(private: object) -> Node:
    node = build_blob_node(Context(1, 0, {"partition-id": 0}, RecordDict(), {}))
    return replace(node, private=private)


@pytest.mark.parametrize(
    "private",
    [
        ShuffledBatches(INPUTS, LABELS, batch_size=3, seed=0, vertex=0),
        DataLoader(WHOLE, batch_size=3, shuffle=True),
        DataLoader(WHOLE, batch_size=3, drop_last=True),
        DataLoader(OnDisk(), batch_size=3, shuffle=True),
        DataLoader(OnDisk(), batch_size=7, collate_fn=lambda rows: torch.utils.data.default_collate(rows)),
        Own(labels=LABELS),
        Own(labels=LABELS.to(torch.uint8)),
    ],
    ids=["in memory", "tensors", "drop last", "pass", "collated", "own", "own bytes"],
)
def test_every_sample_is_counted_once(private: object) -> None:
    node = node_with(private)
    before = torch.random.get_rng_state()
    assert class_counts(node) == COUNTS
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(type(count) is int for count in class_counts(node))


def test_a_loader_without_labels_in_memory_is_read_once() -> None:
    samples = OnDisk()
    assert class_counts(node_with(DataLoader(samples, batch_size=4))) == COUNTS
    assert samples.read == 20


def test_classes_without_samples_count_as_0() -> None:
    only = torch.ones(4, dtype=torch.int64)
    assert class_counts(node_with(ShuffledBatches(INPUTS[:4], only, 2, seed=0, vertex=0))) == [0, 4, 0]


def test_what_a_loader_leaves_out_is_not_counted() -> None:
    some = [0, 3, 5, 8]
    wanted = torch.bincount(LABELS[some], minlength=CLASSES).tolist()
    never = [float(row in some) for row in range(20)]
    for loader in (
        DataLoader(Subset(WHOLE, some), batch_size=2),
        DataLoader(WHOLE, batch_size=2, sampler=SubsetRandomSampler(some)),
        DataLoader(WHOLE, batch_sampler=BatchSampler(SubsetRandomSampler(some), 3, drop_last=False)),
    ):
        assert class_counts(node_with(loader)) == wanted
    often = class_counts(node_with(DataLoader(WHOLE, sampler=WeightedRandomSampler(never, 40))))
    assert sum(often) == 40
    assert all((count > 0) <= (left > 0) for count, left in zip(often, wanted, strict=True))
    assert class_counts(node_with(DataLoader(WHOLE, sampler=SequentialSampler(WHOLE)))) == COUNTS


@pytest.mark.parametrize(
    ("private", "words"),
    [
        (Own(), r"of type Own, which does not say how many .* give it an attribute `labels`, a tensor of shape \[20\]"),
        (Own(labels=LABELS.tolist()), "give it an attribute `labels`"),
        (Own(labels=LABELS[:3]), "give it an attribute `labels`"),
        (Own(labels=torch.eye(20)), "give it an attribute `labels`"),
        (Own(labels=LABELS + 2), "the private labels contain 4|the private labels contain 3"),
        (Own(labels=LABELS.float()), "the private labels are of dtype float32"),
        (DataLoader(OnDisk(LABELS + 1), batch_size=4), "the private labels contain 3: with classes = 3 they must be 0"),
        (DataLoader(OnDisk(-LABELS), batch_size=4), "the private labels contain -"),
    ],
)
def test_labels_that_cannot_be_counted(private: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        class_counts(node_with(private))
    assert "\n" not in str(refusal.value)


def test_samples_are_read_once_in_a_run() -> None:
    data = OnDisk()
    node = node_with(DataLoader(data, batch_size=5))
    remember_class_counts(node)  # in the handshake
    assert remembered_class_counts(node).tolist() == remembered_class_counts(node).tolist() == COUNTS
    assert data.read == 20


def test_a_node_without_a_handshake_counts_when_it_must() -> None:
    data = OnDisk()
    node = node_with(DataLoader(data, batch_size=5))
    assert remembered_class_counts(node).tolist() == remembered_class_counts(node).tolist() == COUNTS
    assert data.read == 20
