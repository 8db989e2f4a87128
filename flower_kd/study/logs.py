"""Flower's log and Python's warnings, as lines for the display of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flwr.common.logger import FLOWER_LOGGER

Sink = Callable[[str], None]


class _ToSink(logging.Handler):
    """Passes warnings on, and drops what the display shows anyway."""

    def __init__(self, sink: Sink, known: tuple[str, ...]) -> None:
        super().__init__(logging.WARNING)
        self._sink = sink
        # The error of a refused run is shown by its caller.
        self._known = ("flower-kd: ", *known)

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record's text to the sink."""
        text = record.getMessage().strip()
        if not text.startswith(self._known):
            self._sink(text)


@contextmanager
def warnings_to(sink: Sink, known: tuple[str, ...] = ()) -> Iterator[None]:
    """Pass warnings to a sink, except those that start with a `known` prefix; silence the rest of Flower's log."""
    handler = _ToSink(sink, known)
    loggers = [FLOWER_LOGGER, logging.getLogger("py.warnings")]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
