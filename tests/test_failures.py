"""What a user sees of an exception in a node's code, on any engine."""

import re
from pathlib import Path

import pytest
import torch

from flower_kd import failures
from flower_kd.errors import InputError

SENTENCE = "ValueError: no data (app/client.py, line 7, in build_node)"
DEVICE = f"<class 'flower_kd.errors.InputError'>:<'{SENTENCE}'>"
RAY = f"\nException ClientAppException occurred. Message: {SENTENCE}"
RAY_TASK = "<class 'ray.exceptions.RayTaskError(ClientAppException)'>:<'\x1b[36mray::f()\x1b[39m\n  File x"


@pytest.mark.parametrize(
    ("reduced", "words"),
    [
        (DEVICE, SENTENCE),
        (RAY, SENTENCE),
        (
            f"<class 'flwr.client.ClientAppException'>:<'{RAY}'>",
            SENTENCE,
        ),
        (f"{RAY_TASK}{RAY}'>", SENTENCE),
        ("<class 'OSError'>:<'disk\nfull'>", "OSError: disk full"),
        ("<class 'KeyError'>:<''a''>", "KeyError: 'a'"),
        ("node is unavailable", "node is unavailable"),
        ("Traceback\n  File x\nRuntimeError: bug", "RuntimeError: bug"),
        ("", "no reason given"),
        (None, "no reason given"),
    ],
)
def test_the_reason_is_the_exceptions_text(reduced: str | None, words: str) -> None:
    assert failures.reason(reduced) == words


def raised_by(code: object) -> str:
    with pytest.raises(InputError) as refusal, failures.in_one_sentence():
        code()  # type: ignore[operator]
    return str(refusal.value)


def test_the_place_is_that_of_the_users_code_not_of_the_library_below_it() -> None:
    def load() -> None:
        torch.zeros(2, 3) @ torch.zeros(2, 3)

    line = load.__code__.co_firstlineno + 1
    words = raised_by(load)
    assert re.fullmatch(rf"RuntimeError: .*mat1 and mat2 .* \(tests/test_failures.py, line {line}, in load\)", words)

    def inside_torch() -> None:
        torch.nn.Linear(2, 3)(torch.zeros(1, 5))

    assert "(tests/test_failures.py, line " in raised_by(inside_torch)


def test_an_own_sentence_has_no_place_and_others_are_one_line() -> None:
    def refuse() -> None:
        raise InputError("dataset 'x' is empty")

    def leave() -> None:
        raise SystemExit("no\ndata")

    def fill() -> None:
        raise ValueError("word " * 1000)

    def say_nothing() -> None:
        raise AssertionError

    assert raised_by(refuse) == "dataset 'x' is empty"
    assert raised_by(leave).startswith("SystemExit: no data (tests/test_failures.py, line ")
    assert len(raised_by(fill)) < 500
    assert raised_by(say_nothing).startswith("AssertionError (tests/test_failures.py, line ")


def test_a_syntax_error_is_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("\n\ndef f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert raised_by(lambda: __import__("broken_module")).endswith(f"({tmp_path.name}/broken_module.py, line 3)")
