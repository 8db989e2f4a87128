import signal
import sys
import time

import pytest

from flower_kd.sim.signals import END_SIGNALS, as_interruption, deferred_signals


@pytest.mark.parametrize("number", END_SIGNALS)
def test_each_end_is_an_interruption(number: int) -> None:
    earlier = signal.signal(number, signal.SIG_DFL)  # nohup, for example, ignores SIGHUP
    try:
        with pytest.raises(KeyboardInterrupt), as_interruption():
            signal.raise_signal(number)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, earlier)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with as_interruption():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_deferred_signals_arrive_after_the_block() -> None:
    done = []

    def work() -> None:
        with as_interruption(), deferred_signals():
            signal.raise_signal(signal.SIGTERM)
            done.append("block")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["block"]


class Interrupted:
    """Its destructor is interrupted."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_an_interruption_that_a_destructor_swallows_comes_again(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with as_interruption():
            Interrupted()
            time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert capfd.readouterr().err == ""
    assert sys.unraisablehook.__module__ != as_interruption.__module__
