"""The ClientApp: handshake, training and evaluation for any user's node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from logging import ERROR, WARNING
from math import inf

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.logger import log
from torch import Tensor

from flower_kd import wire
from flower_kd.clients import heads, neighbor_networks, predictions, state, updates
from flower_kd.clients.checks import (
    check,
    check_compression,
    check_dissimilarity,
    check_parts,
    check_schedule,
    check_validation,
    check_wire,
)
from flower_kd.clients.class_counts import remember_class_counts, remembered_class_counts
from flower_kd.clients.node import Node
from flower_kd.clients.node_files import NodeFiles
from flower_kd.clients.noise import noised, sent_before
from flower_kd.clients.state import NodeFactory
from flower_kd.clients.state_dir import StateDir
from flower_kd.clients.training import evaluate, train
from flower_kd.data import fingerprint
from flower_kd.errors import InputError
from flower_kd.failures import in_one_sentence
from flower_kd.models import num_parameters, pruning
from flower_kd.models.card import Score
from flower_kd.models.two_heads import plain
from flower_kd.protocol import (
    ARRAYS,
    BEST,
    BUILT,
    CONFIG,
    EVALUATION,
    HELLO,
    LAST,
    METRICS,
    NOT_JOINED,
    VALIDATION_ACCURACY,
    VALIDATION_LOSS,
    BuildRequest,
    Greeting,
    Hello,
    Order,
    exchanged_rows,
)

# Where a node's state is kept on disk after each round; None to keep none.
FindFiles = Callable[[Context, Greeting], NodeFiles | None]


class NotJoinedError(InputError):
    """A message for a node that has no state, or that has missed messages in a restart."""


def make_client_app(build_node: NodeFactory, find_files: FindFiles = lambda context, greeting: None) -> ClientApp:
    """Return a ClientApp that trains, distills and evaluates the nodes that `build_node` builds.

    Parameters
    ----------
    build_node : callable (Context) -> Node
        Called once per run on engines that keep nodes alive, else once per message: cache loaded data.
    find_files : callable (Context, Greeting) -> NodeFiles or None
        Returns where a node's state is kept on disk if its node config has no `state-dir`; by default, none is kept.
    """
    app = ClientApp()
    build_node = _checked(build_node)

    def files_of(context: Context, greeting: Greeting) -> NodeFiles | None:
        home = StateDir.of(context)
        return find_files(context, greeting) if home is None else home.files(greeting, context.run_id)

    def keep(context: Context, node: Node, server_round: int, next_step: int | None = None) -> None:
        """Save a node's state after a round; a failing disk does not exclude the node from the run."""
        greeting = state.greeting(context, server_round)
        if next_step is not None and state.next_step(context) is not None:
            state.remember_next_step(context, next_step)
        with _logged(f"round {server_round} cannot be resumed: a node's state cannot be written"):
            files = files_of(context, greeting)
            if files is not None:
                files.save(node, server_round, state.next_step(context) or 0)

    def claim(context: Context, order: Order) -> None:
        """Make the run the current one in the node's own folder, before it first trains in it."""
        if state.next_step(context) is not None:
            return
        with _logged("this node cannot go on after a restart"):
            home = StateDir.of(context)
            if home is not None:
                home.claim(state.greeting(context), context.run_id)
                state.remember_next_step(context, order.first_step)

    def joined(context: Context, follows: Callable[[int, int], bool]) -> Node:
        """Return the node of this run; after a restart, from its own folder if it has missed nothing since.

        Parameters
        ----------
        context : Context
            Of the message.
        follows : callable (int, int) -> bool
            Whether the message is the next one after a round, where a step follows.

        Raises
        ------
        NotJoinedError
            If the node must be greeted first.
        """
        if state.has_node(context):
            return state.load(context, build_node)
        home = StateDir.of(context)
        greeting = home.current(context.run_id) if home is not None else None
        if home is not None and greeting is not None:
            files = home.files(greeting, context.run_id)
            position = files.position()
            if position is not None and follows(*position):
                state.remember_greeting(context, replace(greeting, server_round=position[0]))
                node = state.fresh(context, build_node)
                restore(context, node, files, position[0])
                state.remember_next_step(context, position[1])
                return node
        raise NotJoinedError("it has lost its state in a restart, and is asked to join again")

    def restore(context: Context, node: Node, files: NodeFiles, server_round: int) -> int:
        """Restore a node from its files to the last round up to this one, and return that round; 0 for none."""
        restored = files.load(node, server_round)
        state.save(context, node)
        if best := files.load_best(server_round):
            score, weights = best
            state.keep_best(context, score, pruning.from_file(weights, node.model.state_dict()))
        return restored

    def validate(context: Context, node: Node, server_round: int) -> dict[str, float]:
        """Evaluate a node on its validation data, and keep its model if it is the best so far; the first in a tie."""
        if node.validation is None:
            return {}
        found = evaluate(node.model, node.validation, "validation")
        score, best = Score(server_round, found["accuracy"], found["loss"]), state.best_score(context)
        # By loss: few samples allow few accuracies.
        if score.loss < (inf if best is None else best.loss):
            state.keep_best(context, score, node.model.state_dict())
            with _logged(f"a node's best model, of round {server_round}, cannot be written"):
                files = files_of(context, state.greeting(context))
                if files is not None:
                    files.save_best(node, score)
        return {VALIDATION_ACCURACY: score.accuracy, VALIDATION_LOSS: score.loss}

    def forget_best(context: Context) -> None:
        """Forget a node's best model: from now on, it trains another head."""
        state.forget_best(context)
        with _logged("a node's best model of an earlier phase cannot be removed"):
            files = files_of(context, state.greeting(context))
            if files is not None:
                files.forget_best()

    @app.query("join")
    def join(message: Message, context: Context) -> Message:
        """Return the node's Hello; reset the node if a new run begins, and only then."""
        greeting = Greeting.from_record(_config(message))
        try:
            with in_one_sentence():
                check_parts(greeting)
                fresh = greeting.fresh or not state.has_node(context)
                if fresh:  # what is built may depend on it
                    state.remember_greeting(context, greeting)
                node = (state.fresh if fresh else state.load)(context, build_node)
                restored = 0 if fresh else state.greeting(context).server_round
                StateDir.of(context)  # raises for a folder that cannot be used
                files = files_of(context, greeting) if fresh and not greeting.fresh else None
                if files is not None:
                    restored = restore(context, node, files, greeting.server_round)
                if greeting.two_heads:
                    heads.check_two_heads(node)
                check(node, 0 if greeting.phase_steps else greeting.total_steps)
                for steps in greeting.phase_steps:
                    check_schedule(node, steps)
                check_dissimilarity(greeting.dissimilarity, node)
                check_compression(greeting.compression, node)
                check_wire(greeting, node)
                check_validation(greeting.patience, node)
                if greeting.class_counts or greeting.logit_adjustment:
                    remember_class_counts(node)
                    state.save(context, node)
                state.remember_greeting(context, replace(greeting, server_round=restored))
                hello = replace(
                    _hello(node, context),
                    fresh=fresh and restored == 0,
                    restored_round=restored,
                    class_counts=remembered_class_counts(node).tolist() if greeting.class_counts else [],
                    noised_messages=sent_before(greeting, context),
                )
        except InputError as error:  # the server ends the run with this error
            hello = Hello(vertex=_vertex(context), name=_name(context), error=str(error))
        return Message(RecordDict({HELLO: hello.to_record()}), reply_to=message)

    @app.query("weights")
    def start_weights(message: Message, context: Context) -> Message:
        """Return the node's weights as they are."""

        def answer() -> Message:
            model = joined(context, lambda *_: False).model
            return Message(RecordDict({ARRAYS: updates.encoded(model)}), reply_to=message)

        return _answered(message, answer)

    @app.query("build")
    def try_building(message: Message, context: Context) -> Message:
        """Return whether the node can build the networks of its neighbors."""

        def reply() -> Message:
            node = joined(context, lambda *_: False)
            built = neighbor_networks.answer(node, BuildRequest.from_record(_config(message)))
            return Message(RecordDict({BUILT: built.to_record()}), reply_to=message)

        return _answered(message, reply)

    @app.train()
    def train_node(message: Message, context: Context) -> Message:
        """Load weights if the message has some, train, and return what the order requests."""
        return _answered(message, lambda: _train(message, context))

    def _train(message: Message, context: Context) -> Message:
        order = Order.from_record(_config(message))
        node = joined(context, lambda server_round, step: step == order.first_step)
        claim(context, order)
        reference = node.reference
        assert isinstance(reference, Tensor)
        vertex = order.vertex if order.vertex >= 0 else _vertex(context)
        taught = order.taught
        if taught == LAST:
            taught = order.exchange if order.joint else max(order.exchange - 1, 0)
        rows = exchanged_rows(order.seed, taught, len(reference), order.exchange_rows)
        teacher = predictions.teacher(message.content, order, rows=len(rows), classes=node.classes)
        with state.restored_on_error(context, node):
            _load_weights(node, message)
            begins = heads.begins_head_2(node, order)
            if begins and order.best_head_1:  # it may have missed the round in which head 1 ended
                state.restore_best(context, node)
            heads.set_head(node, order)
            if order.head == 2:
                teacher = heads.kept_teacher(node, teacher)
                neighbor_networks.receive(node, order, message.content)
            base = updates.base_of(node, order)
            metrics: dict[str, float]
            if order.stopped:
                state.restore_best(context, node)
                metrics, logits = {"num-examples": len(node.private)}, None
            else:
                metrics, logits = train(node, order, teacher, rows, vertex, neighbor_networks.teachers(node, order))
                if order.head == 1 and order.best_head_1:
                    validate(context, node, order.server_round)
                    state.restore_best(context, node)
            content = RecordDict({METRICS: MetricRecord({**metrics})})
            if order.reply == "weights":
                name, record = updates.reply(node, order, base)
                content[name] = record
            elif order.reply == "network":
                content[ARRAYS] = neighbor_networks.encoded(node)
            elif order.reply == "logits":
                name, record = predictions.reply(
                    node, order, teacher, logits, lambda rows: noised(rows, order, vertex, context)
                )
                content[name] = record
        state.save(context, node)
        if begins:
            forget_best(context)
        if order.keep:
            keep(context, node, order.server_round, order.first_step + order.num_steps)
        if order.evaluate:
            try:
                with in_one_sentence():
                    content[EVALUATION] = tested(context, node, order.server_round)
            except InputError as error:  # what was trained is not lost; the server asks again, and is told
                log(WARNING, "this node cannot be evaluated: %s", error)
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate_node(message: Message, context: Context) -> Message:
        """Load weights if the message has some, and evaluate on the test set and the validation data, if any."""
        return _answered(message, lambda: _evaluate(message, context))

    def _evaluate(message: Message, context: Context) -> Message:
        config = _config(message)
        server_round = int(config.get("server-round", 0))  # type: ignore[arg-type]
        node = joined(context, lambda last, step: last == server_round)
        if best := bool(config.get(BEST)):
            state.restore_best(context, node)
        if _load_weights(node, message) or best:
            state.save(context, node)
            keep(context, node, server_round)
        return Message(RecordDict({METRICS: tested(context, node, server_round)}), reply_to=message)

    def tested(context: Context, node: Node, server_round: int) -> MetricRecord:
        """Return a node's metrics on the test set and on its validation data, if any."""
        return MetricRecord({**evaluate(node.model, node.test), **validate(context, node, server_round)})

    return app


@contextmanager
def _logged(what: str) -> Iterator[None]:
    """Log that a folder cannot be used; the node goes on without it: a full or lost disk must not end its part."""
    try:
        yield
    except (OSError, InputError) as error:
        log(ERROR, "%s: %s", what, error)


def _answered(message: Message, answer: Callable[[], Message]) -> Message:
    """Return the answer to a message, or an error reply: engines would print the traceback of an exception."""
    try:
        with in_one_sentence():
            return answer()
    except NotJoinedError as error:
        return Message(Error(NOT_JOINED, str(error)), reply_to=message)
    except InputError as error:
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error)), reply_to=message)


def _checked(build_node: NodeFactory) -> NodeFactory:
    """Return a factory that raises InputError if the result is not a Node."""

    def build(context: Context) -> Node:
        node = build_node(context)
        if not isinstance(node, Node):
            raise InputError(f"build_node returned {type(node).__name__}, but must return a flower_kd.Node")
        return node

    return build


def _config(message: Message) -> ConfigRecord:
    config = message.content.get(CONFIG)
    if not isinstance(config, ConfigRecord):
        raise InputError(f"a {message.metadata.message_type!r} message without the ConfigRecord {CONFIG!r}")
    return config


def _vertex(context: Context) -> int:
    """Return the partition-id of a node config; -1 if it is missing or not an integer."""
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
    network = plain(node.model)
    return Hello(
        vertex=_vertex(context),
        name=_name(context),
        partitions=int(context.node_config.get("num-partitions", 0)),
        classes=node.classes,
        model=node.name,
        parameters=num_parameters(network),
        pruned=pruning.num_pruned(network),
        mask=pruning.fingerprint(network),
        weights_bytes=wire.reply_bytes(ARRAYS, updates.encoded(network), len(node.private)),
        stored_bytes=pruning.file_bytes(node.model.state_dict()),
        reference_rows=len(reference),
        fingerprint=node.fingerprint or fingerprint(reference),
    )


def _load_weights(node: Node, message: Message) -> bool:
    """Load the weights in a message, if any, and return whether there were some."""
    record = message.content.get(ARRAYS)
    if not isinstance(record, ArrayRecord) or not record:
        return False
    updates.load(node, record)
    return True
