"""The privacy loss of messages with noise."""

import importlib
import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from flower_kd import privacy
from flower_kd.errors import InputError
from flower_kd.privacy import epsilon, multiplier

MULTIPLIERS, MESSAGES = st.floats(0.05, 50.0), st.integers(1, 2000)


@pytest.mark.parametrize(("sigma", "delta"), [(1.0, 1e-5), (0.3, 1e-5), (4.0, 1e-8)])
def test_one_message_is_a_gaussian_mechanism(sigma: float, delta: float) -> None:
    """Balle and Wang (2018), theorem 8."""
    found = epsilon(sigma, 1, delta)
    shift = 1 / (2 * sigma)
    exact = norm.cdf(shift - found * sigma) - math.exp(found) * norm.cdf(-shift - found * sigma)
    assert exact == pytest.approx(delta, rel=1e-6)


def test_the_loss_is_that_of_the_accountant() -> None:
    assert epsilon(1.0, 1) == pytest.approx(4.377178, abs=1e-6)  # a golden value
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    for sigma, messages in ((1.0, 4), (3.0, 19)):
        accountant = PLDAccountant()
        accountant.compose(dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(sigma), messages))
        assert epsilon(sigma, messages) == pytest.approx(accountant.get_epsilon(privacy.DELTA), abs=1e-6)


@given(MULTIPLIERS, MESSAGES, st.floats(1.01, 3.0))
def test_less_noise_more_messages_and_a_smaller_delta_cost_more(sigma: float, messages: int, factor: float) -> None:
    loss = epsilon(sigma, messages)
    assert loss > epsilon(factor * sigma, messages)
    assert epsilon(sigma, messages + 1) > loss
    assert epsilon(sigma, messages, privacy.DELTA / 10) > loss
    assert epsilon(2 * sigma, 4 * messages) == pytest.approx(loss, rel=1e-9)


@given(st.floats(0.05, 200.0), MESSAGES)
def test_the_multiplier_is_the_inverse(loss: float, messages: int) -> None:
    assert epsilon(multiplier(loss, messages), messages) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: epsilon(0.0, 1), "multiplier = 0.0 must be above 0"),
        (lambda: epsilon(1.0, 0), "messages = 0 must be at least 1"),
        (lambda: epsilon(1.0, 1, 1.0), "delta = 1.0 must be below 1"),
        (lambda: epsilon(1.0, 1, 0.0), "delta = 0.0 must be above 0"),
        (lambda: multiplier(-1.0, 1), "epsilon = -1.0 must be above 0"),
    ],
)
def test_mistakes_are_one_sentence(call, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        call()


@pytest.fixture
def _no_accountant(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    privacy.accountant.cache_clear()
    monkeypatch.setattr(importlib, "import_module", missing)
    yield
    privacy.accountant.cache_clear()


@pytest.mark.usefixtures("_no_accountant")
def test_without_the_library_the_extra_is_named() -> None:
    with pytest.raises(InputError) as refusal:
        epsilon(1.0, 1)
    assert str(refusal.value) == (
        "the privacy loss of wire-noise cannot be accounted: No module named 'dp_accounting' (install it with: "
        "pip install 'flower-kd[privacy]')"
    )
