import os
import signal
import time

import pytest

from flower_kd.sim.signals import ENDS, as_interruption, held


@pytest.mark.parametrize("number", ENDS)
def test_each_end_is_an_interruption(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), as_interruption():
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert signal.getsignal(number) == before


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with as_interruption():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_is_held_comes_after_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), as_interruption(), held():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("block")
    assert done == ["block"]
