import doctest

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flower_kd.errors import InputError
from flower_kd.parts import text as part_text
from flower_kd.parts.text import PartText, is_own, parse, split

names = st.from_regex(
    r"[a-z][a-z0-9]{0,5}(-[a-z0-9]{1,4}){0,2}|[a-z]{1,4}(\.[a-z]{1,3})?:[A-Za-z_]{1,6}", fullmatch=True
)
scalars = (
    st.integers()
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.none()
    | st.text(max_size=12)
    | st.sampled_from(["true", "None", "mixing", "mean-logits", "inf", "a,b", "(", "it's", '"', "\\", "x=1"])
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple))
keys = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True)


@given(names, st.dictionaries(keys, values, max_size=4))
def test_what_is_written_is_read_again(name: str, arguments: dict) -> None:
    part = PartText(name, arguments)
    found = parse(str(part))
    assert found == part
    assert [type(value) for value in found.arguments.values()] == [type(value) for value in arguments.values()]


@given(st.text(max_size=40))
@example("0\n(")
@example("a\nb(")
def test_any_text_is_read_or_refused_in_one_sentence(text: str) -> None:
    try:
        part = parse(text)
    except InputError as problem:
        sentence = str(problem)
    else:
        assert parse(str(part)) == part
        return
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("ring", "ring", {}),
        ("ring()", "ring", {}),
        (" regular ( degree = 4 , ) ", "regular", {"degree": 4}),
        ("my.parts:Renyi(order=0.5)", "my.parts:Renyi", {"order": 0.5}),
        ("neighbor-kd(pooling_self=true, pooling_weights=mixing)", "neighbor-kd",
         {"pooling_self": True, "pooling_weights": "mixing"}),
        ("x(a=None, b=False, c=-1e-3, d='q,)(', e=[1, 'two', (3,)], f=(), g=inf)", "x",
         {"a": None, "b": False, "c": -1e-3, "d": "q,)(", "e": [1, "two", (3,)], "f": (), "g": float("inf")}),
    ],
)  # fmt: skip
def test_what_is_read(text: str, name: str, arguments: dict) -> None:
    assert parse(text) == PartText(name, arguments)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("regular(4)", "'4' is not of the form key=value"),
        ("small-world(rewire-probability=1)", "with underscores, rewire_probability and not rewire-probability"),
        ("regular(-=4)", "'-=4' is not of the form key=value"),
        ("regular(degree=4, degree=6)", "degree is given twice"),
        ("regular(degree=4", "its parentheses are not closed"),
        ("regular(degree=4)x", "its parentheses are not closed, or something follows"),
        ("regular(degree=(4)", r"a \) is missing"),
        ("regular(degree=])", r"a \] too many"),
        ("regular(degree='4)", "a ' is missing"),
        ("regular(degree=)", "'' is not a number, a word of letters and digits, a string in quotes"),
        ("regular(degree={1: 2})", "is not a number, a word of letters and digits, a string in quotes"),
        ("regular(degree=__import__('os'))", "is not a number, a word of letters and digits, a string in quotes"),
        ("regular(degree=2+2)", "is not a number"),
        ("regular(degree=b'4')", "is not a number"),
        ("regular(degree=1j)", "is not a number"),
        ("regular(*degrees)", "is not of the form key=value"),
        ("regular(the degree=4)", "is not of the form key=value"),
        ("", "'' is neither a name nor module:attribute"),
        ("own:", "'own:' is neither a name"),
        ("ring,", "'ring,' is neither a name"),
        ("regular(degree=5%)", "'5%' is not a number, a word"),
        ("regular(degree=4),own:part", "lists several parts, but can name only one: combine them in a function"),
        ("(degree=4)", "'' is neither a name"),
        ("x(a=" + "[" * 3000, "not closed"),
        ("x(a=" + "[" * 900 + "]" * 900 + ")", "more than 16 nested brackets"),
        ("x(a='" + "y" * 3000 + "')", "has more than 2000 characters"),
    ],
)
def test_what_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        parse(text, "topology")
    assert str(refusal.value).startswith("topology ")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_only_strings_are_read() -> None:
    with pytest.raises(InputError, match="topology = 5 must be a string: a name or 'module:attribute'"):
        parse(5, "topology")  # type: ignore[arg-type]


def test_module_and_attribute() -> None:
    assert is_own("my.parts:Renyi")
    assert is_own("parts:Outer.inner")
    assert not any(map(is_own, ("ring", "mean-logits", "C:x/y", "my.parts", "my-parts:x", ":x", "x:")))


@given(st.lists(st.text("abc=[]('", max_size=4).map(repr) | st.sampled_from(["x(a=1,b=2)", "[1,2]", ""]), min_size=1))
def test_splitting_keeps_brackets_and_quotes_together(pieces: list[str]) -> None:
    assert split(",".join(pieces)) == pieces


def test_examples_in_the_docstrings() -> None:
    results = doctest.testmod(part_text)
    assert results.attempted > 0
    assert results.failed == 0
