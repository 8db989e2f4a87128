"""Noise on the logits that a node sends, and whether anybody else could compute it."""

from __future__ import annotations

from logging import ERROR

from flwr.app import Context
from flwr.common.logger import log
from torch import Tensor

from flower_kd.clients import state
from flower_kd.clients.state_dir import KEY, StateDir
from flower_kd.errors import InputError
from flower_kd.protocol import SEEDED_NOISE, Greeting, Order
from flower_kd.seeding import derive
from flower_kd.wire import noise


def noised(logits: Tensor, order: Order, vertex: int, context: Context) -> Tensor:
    """Return logits [rows, classes] with the noise that an order wants; as they are, if it wants none.

    A node with a folder of its own draws anew for each message, and counts it there. Noise that followed from a secret
    and the number of the message would be the same if the message were asked for again, and the difference of two
    answers would then have none. Other nodes draw from the run's seed, so that every engine has the same figures.
    """
    found = noise.get(order.wire_noise)
    if found is None:
        return logits
    shape = tuple(logits.shape)
    if KEY not in context.node_config:
        seed = derive(order.seed, "wire noise", vertex, order.first_step)
        return found.added(logits, noise.seeded_normal(shape, seed))
    _count(context, order.wire_noise)
    return found.added(logits, noise.secret_normal(shape))


def sent_before(greeting: Greeting, context: Context) -> int:
    """Return how many messages with noise a node has sent in a run, for its Hello.

    Returns
    -------
    int
        `SEEDED_NOISE` if its noise follows from the run's seed, or it is to send none.

    Raises
    ------
    InputError
        If its count cannot be read.
    """
    if noise.get(greeting.wire_noise) is None:
        return SEEDED_NOISE
    home = StateDir.of(context)
    return SEEDED_NOISE if home is None else home.noised_messages(greeting, context.run_id)


def _count(context: Context, wire_noise: str) -> None:
    """Count a message before it is sent; the server counts, too, so that a full disk only costs the node's own count.

    It cannot cost the noise.
    """
    try:
        home = StateDir.of(context)
        if home is not None:
            home.count_noised_message(state.greeting(context), context.run_id, wire_noise)
    except (OSError, InputError) as error:
        log(ERROR, "a message with noise cannot be counted: %s", error)
