"""What Flower logs and Python warns of, as lines for whoever shows a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flwr.common.logger import FLOWER_LOGGER

Sink = Callable[[str], None]


class _ToSink(logging.Handler):
    """Hands warnings on, and drops what a progress bar says better."""

    def __init__(self, sink: Sink, known: tuple[str, ...]) -> None:
        super().__init__(logging.WARNING)
        self._sink = sink
        # A refused run: whoever started it shows the same sentence.
        self._known = ("flower-kd: ", *known)

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record's text to the sink."""
        text = record.getMessage().strip()
        if not text.startswith(self._known):
            self._sink(text)


@contextmanager
def warnings_to(sink: Sink, known: tuple[str, ...] = ()) -> Iterator[None]:
    """Hand warnings to a sink, but for those that begin with what is `known`; silence the rest of Flower's log."""
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
