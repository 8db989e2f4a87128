"""Types and ranges stated by annotations: checked by pydantic, described in one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from flower_kd.errors import InputError, unknown
from flower_kd.ranges import LARGEST

_STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
KINDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", NoneType: "None"}
_SHORT_KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "none"}
_OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")


@dataclass(frozen=True)
class Misfit:
    """The first value that does not fit its annotation.

    Parameters
    ----------
    place : tuple
        Keys and indices that lead to the value.
    value : object
        The value itself.
    kind : str
        Pydantic's name of the problem.
    words : str
        The problem, such as "should be a valid integer".
    """

    place: tuple[Any, ...]
    value: Any
    kind: str
    words: str


def misfit(error: ValidationError) -> Misfit:
    """Return the first problem that pydantic found."""
    first = error.errors(include_url=False, include_context=False)[0]
    words = first["msg"].removeprefix("Input ").removeprefix("String ").removeprefix("Value error, ")
    return Misfit(first["loc"], first["input"], first["type"], words)


def checked(name: str, value: Any, annotation: Any) -> Any:
    """Return a value in the type of its annotation; numbers are finite unless the annotation allows others.

    Parameters
    ----------
    name : str
        What the value is called, for errors.
    value : object
        Any value. A whole number may stand for a number; true and false are not numbers.
    annotation : type
        With `Annotated[..., Interval(...)]` for ranges.

    Raises
    ------
    InputError
        If the value does not fit.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        value = int(value) if isinstance(value, Integral) else float(value)
    try:
        return _adapter(annotation).validate_python(value)
    except ValidationError as error:
        raise InputError(_sentence(name, value, annotation, misfit(error))) from None


def allowed(annotation: Any) -> str:
    """Return which values an annotation allows, in a few words: "number, above 0 and at most 1"."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return ", or ".join(map(allowed, get_args(annotation)))
    if origin is Literal:
        return ", ".join(map(str, get_args(annotation)))
    kind = _SHORT_KINDS.get(get_args(annotation)[0] if origin is Annotated else annotation, "any")
    limits = _range(annotation, 0)
    return f"{kind}, {limits}" if limits else kind


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return _cached(annotation)
    except TypeError:  # not hashable
        return _made(annotation)


def _made(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=_STRICT)
    except PydanticUserError:  # a model has its own config
        return TypeAdapter(annotation)


_cached = lru_cache(maxsize=1024)(_made)


def _sentence(name: str, value: Any, annotation: Any, problem: Misfit) -> str:
    if problem.kind == "float_type" and type(value) is int:  # too large for a float
        return _sentence(name, math.inf if value > 0 else -math.inf, annotation, replace(problem, kind="finite_number"))
    if problem.kind == "literal_error" and (choices := _choices(annotation)):
        owner, colon, setting = name.rpartition(": ")
        return f"{owner}{colon}{unknown(setting, value, choices)}"
    if problem.kind in _OUT_OF_RANGE and isinstance(value, int | float):
        return f"{name} = {value!r} must be {_range(annotation, value)}"
    described = _described(annotation)
    return f"{name} = {value!r} must be {described}" if described else f"{name} = {value!r} {problem.words}"


def _choices(annotation: Any) -> list[str]:
    """Return what a Literal of strings allows; empty for other annotations."""
    values = get_args(annotation) if get_origin(annotation) is Literal else ()
    return list(values) if all(isinstance(value, str) for value in values) else []


def _described(annotation: Any) -> str:
    """Return what values an annotation allows; empty if there are no plain words for it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _described(get_args(annotation)[0])
    if origin in (Union, UnionType):
        parts = [_described(each) for each in get_args(annotation)]
        return " or ".join(parts) if all(parts) else ""
    if origin is Literal:
        return " or ".join(map(repr, get_args(annotation)))
    return KINDS.get(annotation, "")


def _range(annotation: Any, value: float) -> str:
    limits = list(_limits(annotation))
    words = [] if math.isfinite(value) else ["finite"]
    words += [f"above {limit.gt:g}" for limit in limits if isinstance(limit, Gt)]
    words += [f"at least {limit.ge:g}" for limit in limits if isinstance(limit, Ge)]
    words += [f"below {limit.lt:g}" for limit in limits if isinstance(limit, Lt)]
    # That numbers must fit into a record is mentioned only where one does not.
    words += [f"at most {x.le:g}" for x in limits if isinstance(x, Le) and (x.le != LARGEST or value > LARGEST)]
    return " and ".join(words)


def _limits(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        for each in get_args(annotation):
            yield from _limits(each)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        yield from _limits(inner)
        for each in metadata:
            yield from each if isinstance(each, GroupedMetadata) else [each]
