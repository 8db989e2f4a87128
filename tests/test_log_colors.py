import io
import logging

import pytest
from flwr.common.logger import FLOWER_LOGGER, ConsoleHandler

from flower_kd import log_colors


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "colored"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_only_terminals_get_color_codes(
    stream: io.StringIO, environment: dict[str, str], colored: bool, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    caplog.set_level(logging.INFO, logger=FLOWER_LOGGER.name)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(FLOWER_LOGGER, "handlers", [ConsoleHandler(stream=stream)])
    log_colors.only_on_terminals()
    FLOWER_LOGGER.log(logging.INFO, "a line")
    assert "a line" in stream.getvalue()
    assert ("\x1b" in stream.getvalue()) == colored
