"""What a callable declares: its own settings are its keyword-only parameters."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, get_type_hints

from flower_kd.errors import InputError, unknown

_REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Setting:
    """A parameter that takes a value by keyword.

    Parameters
    ----------
    name : str
        The keyword.
    annotation : type
        Of its values; `typing.Any` if nothing is known.
    default : object
        Its default, unless it is required.
    keyword_only : bool
        Whether it cannot be given by position.
    """

    name: str
    annotation: Any
    default: Any = _REQUIRED
    keyword_only: bool = True

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is _REQUIRED


def parameters_of(part: Callable[..., Any]) -> dict[str, Setting]:
    """Return the named parameters of a callable.

    Of a class they are those of its constructor, and of its bases' constructors as far as each passes on `**keywords`;
    of a dataclass, its fields.

    Raises
    ------
    InputError
        If an annotation cannot be read.
    """
    if not isinstance(part, type):
        function = part
        while isinstance(function, partial):
            function = function.func
        function = inspect.unwrap(function)
        names = getattr(function, "__globals__", None) or vars(sys.modules[type(function).__module__])
        return {name: _setting(parameter, names) for name, parameter in _named(inspect.signature(part)).items()}
    found: dict[str, Setting] = {}
    for base in part.__mro__:
        if "__init__" not in vars(base):
            continue
        signature = inspect.signature(base.__init__)  # type: ignore[misc]
        names = getattr(inspect.unwrap(base.__init__), "__globals__", {})  # type: ignore[misc]
        if dataclasses.is_dataclass(base):
            names = vars(sys.modules[base.__module__])
        for name, parameter in list(_named(signature).items())[1:]:
            if dataclasses.is_dataclass(base):
                parameter = parameter.replace(kind=parameter.KEYWORD_ONLY)
            found.setdefault(name, _setting(parameter, names))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
            break
    return found


def settings_of(part: Callable[..., Any]) -> dict[str, Setting]:
    """Return the keyword-only parameters of a callable, and the fields of a dataclass."""
    return {name: setting for name, setting in parameters_of(part).items() if setting.keyword_only}


def check_arguments(
    owner: str, settings: Mapping[str, Setting], arguments: Mapping[str, Any], prefix: str = "", name: str = ""
) -> dict[str, Any]:
    """Return keyword arguments in the types that their parameters declare.

    Parameters
    ----------
    owner : str
        Whose parameters they are, for errors.
    settings : dict
        The parameters.
    arguments : dict
        Values by keyword.
    prefix : str
        What precedes a keyword where its value does not fit.
    name : str
        Of the part, for an example.

    Raises
    ------
    InputError
        If a keyword is unknown, a value does not fit, or a required one is missing.
    """
    for argument in arguments:
        if not settings:
            raise InputError(f"{owner} takes no arguments, but got {argument!r}")
        if argument not in settings:
            raise InputError(unknown(f"argument of {owner}", argument, settings))
    missing = [key for key, setting in settings.items() if setting.required and key not in arguments]
    if missing:
        from flower_kd.parts.values import allowed

        values = {key: allowed(settings[key].annotation) for key in missing}
        # "any" is the annotation of another library
        described = [key if "any" in text else f"{key} ({text})" for key, text in values.items()]
        words = "the argument" if len(missing) == 1 else "the arguments"
        example = ", ".join(f"{key}=..." for key in missing)
        raise InputError(f"{owner} needs {words} {' and '.join(described)}, as in '{name}({example})'")
    return {argument: _checked(settings[argument], value, prefix) for argument, value in arguments.items()}


def _checked(setting: Setting, value: Any, prefix: str) -> Any:
    if not setting.required and value is setting.default:
        return value
    from flower_kd.parts.values import checked  # pydantic: nodes without parts that have settings need none

    return checked(f"{prefix}{setting.name}", value, setting.annotation)


def _named(signature: inspect.Signature) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {name: parameter for name, parameter in signature.parameters.items() if parameter.kind in kinds}


def _setting(parameter: inspect.Parameter, names: dict[str, Any]) -> Setting:
    only = parameter.kind is parameter.KEYWORD_ONLY
    try:
        annotation = _annotation(parameter, names)
    except InputError:
        if only:
            raise
        annotation = Any  # of what flower-kd supplies, and often imported for type checkers only
    return Setting(parameter.name, annotation, parameter.default, only)


def _annotation(parameter: inspect.Parameter, names: dict[str, Any]) -> Any:
    """Return the annotation of a parameter; without one, the type of a plain default."""
    if parameter.annotation is parameter.empty:
        return type(parameter.default) if type(parameter.default) in (bool, int, float, str) else Any
    holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return get_type_hints(holder, names, include_extras=True)[parameter.name]
    except Exception as error:  # an annotation may be any code
        raise InputError(
            f"the annotation {parameter.annotation!r} of {parameter.name} cannot be read: {type(error).__name__}: "
            f"{error}"
        ) from None
