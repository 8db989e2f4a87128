"""The ClientApp: handshake, training and evaluation for any user's node."""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from flower_kd import wire
from flower_kd.clients import state
from flower_kd.clients.checks import check
from flower_kd.clients.node import Node
from flower_kd.clients.state import NodeFactory
from flower_kd.clients.training import evaluate, predict, train
from flower_kd.data import fingerprint
from flower_kd.errors import InputError
from flower_kd.failures import in_one_sentence
from flower_kd.models import num_parameters
from flower_kd.pooling import Teacher
from flower_kd.protocol import ARRAYS, CONFIG, HELLO, LOGITS, METRICS, TEACHER, Hello, Order, exchanged_rows


def make_client_app(build_node: NodeFactory) -> ClientApp:
    """Return a ClientApp that distills, trains and evaluates what `build_node` builds.

    Parameters
    ----------
    build_node : callable (Context) -> Node
        Called once a run on engines that keep nodes alive, once a message on the others: cache loaded data.
    """
    app = ClientApp()
    build_node = _checked(build_node)

    @app.query("join")
    def join(message: Message, context: Context) -> Message:
        """Say who the node is; begin anew where a run begins, and only then."""
        starting = bool(_config(message).get("fresh", True))
        try:
            with in_one_sentence():
                node = (state.fresh if starting else state.load)(context, build_node)
                check(node)
                hello = _hello(node, context)
        except InputError as error:  # the server ends the run with this sentence
            hello = Hello(vertex=_vertex(context), name=_name(context), error=str(error))
        return Message(RecordDict({HELLO: hello.to_record()}), reply_to=message)

    @app.train()
    def train_node(message: Message, context: Context) -> Message:
        """Load weights if some came, train, and return what the order asks for."""
        with in_one_sentence():
            return _train(message, context)

    def _train(message: Message, context: Context) -> Message:
        order = Order.from_record(_config(message))
        node = state.load(context, build_node)
        reference = node.reference
        assert isinstance(reference, Tensor)
        vertex = order.vertex if order.vertex >= 0 else _vertex(context)
        taught = order.exchange if order.joint else max(order.exchange - 1, 0)
        rows = exchanged_rows(order.seed, taught, len(reference), order.exchange_rows)
        teacher = _teacher(message, order, rows=len(rows), classes=node.classes)
        with state.kept_on_error(context, node):
            _load_weights(node, message)
            metrics, predictions = train(node, order, teacher, rows, vertex)
            content = RecordDict({METRICS: MetricRecord({**metrics})})
            if order.reply == "weights":
                content[ARRAYS] = wire.encode_weights(node.model.state_dict())
            elif order.reply == "logits":
                if predictions is None:
                    asked = exchanged_rows(order.seed, order.exchange, len(reference), order.exchange_rows)
                    predictions = predict(node.model, reference[asked])
                content[LOGITS] = wire.encode(predictions, order.wire)
        state.save(context, node)
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate_node(message: Message, context: Context) -> Message:
        """Load weights if some came, and evaluate on the test set."""
        with in_one_sentence():
            node = state.load(context, build_node)
            if _load_weights(node, message):
                state.save(context, node)
            metrics = evaluate(node.model, node.test)
        return Message(RecordDict({METRICS: MetricRecord({**metrics})}), reply_to=message)

    return app


def _checked(build_node: NodeFactory) -> NodeFactory:
    """Return a factory that refuses to hand on what is not a Node."""

    def build(context: Context) -> Node:
        node = build_node(context)
        if not isinstance(node, Node):
            raise InputError(f"build_node returned {type(node).__name__} where a flower_kd.Node was wanted")
        return node

    return build


def _config(message: Message) -> ConfigRecord:
    config = message.content.get(CONFIG)
    if not isinstance(config, ConfigRecord):
        raise InputError(f"a {message.metadata.message_type!r} message without the ConfigRecord {CONFIG!r}")
    return config


def _vertex(context: Context) -> int:
    """Return the partition-id of a node config; -1 if it has none that is a whole number."""
    vertex = context.node_config.get("partition-id", -1)
    return vertex if type(vertex) is int else -1


def _name(context: Context) -> str:
    return str(context.node_config.get("name", ""))


def _hello(node: Node, context: Context) -> Hello:
    reference = node.reference
    assert isinstance(reference, Tensor)
    stated = context.node_config.get("partition-id", -1)
    if type(stated) is not int:
        raise InputError(f"partition-id = {stated!r} in its node config must be a whole number")
    return Hello(
        vertex=_vertex(context),
        name=_name(context),
        partitions=int(context.node_config.get("num-partitions", 0)),
        classes=node.classes,
        model=node.name,
        parameters=num_parameters(node.model),
        weights_bytes=wire.content_bytes(RecordDict({ARRAYS: wire.encode_weights(node.model.state_dict())})),
        reference_rows=len(reference),
        fingerprint=node.fingerprint or fingerprint(reference),
    )


def _load_weights(node: Node, message: Message) -> bool:
    """Load the weights a message carries, if any, and say whether it did."""
    record = message.content.get(ARRAYS)
    if not isinstance(record, ArrayRecord) or not record:
        return False
    _load(node.model, record)
    return True


def _load(model: nn.Module, record: ArrayRecord) -> None:
    try:
        model.load_state_dict(record.to_torch_state_dict())
    except RuntimeError as error:  # torch lists every key; its first line says which model
        raise InputError(f"weights of another model arrived: {str(error).splitlines()[0]}") from None


def _teacher(message: Message, order: Order, rows: int, classes: int) -> Teacher | None:
    record = message.content.get(TEACHER)
    if not isinstance(record, ArrayRecord):
        return None
    arrays = dict(record)
    weights = arrays.pop("weights", None)
    shape = (rows, classes) if weights is None else (None, rows, classes)
    soft_labels = wire.decode(ArrayRecord(arrays), shape).clamp_(0.0, 1.0)
    if order.dissimilarity != "squared-error":  # which alone compares with what is no distribution (D-Dist's z)
        soft_labels /= soft_labels.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return Teacher(soft_labels, None if weights is None else _as_tensor(weights))


def _as_tensor(array: Array) -> Tensor:
    return wire.decode(ArrayRecord({"rows": Array(np.asarray(array.numpy(), dtype=np.float32))}), (None,))
