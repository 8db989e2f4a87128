"""Parts by name: those of this package, of installed packages, and of any module.

A part is a callable. Some of its parameters flower-kd supplies itself; its own settings are the other keyword-only
ones. A text such as `regular(degree=4)` or `my.parts:Renyi(order=0.5)` names a part and sets them; the part's own
signature checks it. An installed package gives its parts plain names by entry points in the group of their kind::

    [project.entry-points."flower_kd.dissimilarities"]
    renyi = "my.parts:Renyi"
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from flower_kd.errors import InputError, near, unknown
from flower_kd.failures import describe
from flower_kd.parts import signatures
from flower_kd.parts.signatures import Setting
from flower_kd.parts.text import PartText, is_own, parse

T = TypeVar("T")

OWN = "module:attribute"


@dataclass(frozen=True)
class Source:
    """Where a part comes from.

    Parameters
    ----------
    package : str
        The installed package and its version, for a part from an entry point.
    module : str
        The module, for a part named `module:attribute`. Both are empty for parts of flower-kd.
    """

    package: str = ""
    module: str = ""

    def __str__(self) -> str:
        """Return the source as one word or two."""
        return self.package or self.module or "flower-kd"


class Registry(Generic[T]):
    """Parts of one kind.

    Parameters
    ----------
    kind : str
        The kind of part, as it appears in errors ("topology").
    group : str
        The group of entry points with which packages add parts; none if empty.
    given : collection of str
        Parameters that flower-kd supplies itself.
    also : str
        What else a name may be, for errors.
    foreign : bool
        Whether classes of other libraries are parts as they are: all parameters of their constructors are settings,
        and no setting takes the value of a run-config key that happens to have its name.
    problem : callable, optional
        Returns what is wrong with an imported part, such as "is not a subclass of Strategy"; empty if nothing is.
    """

    def __init__(
        self,
        kind: str,
        *,
        group: str = "",
        given: Collection[str] = (),
        also: str = "",
        foreign: bool = False,
        problem: Callable[[Any], str] = lambda part: "",
    ) -> None:
        self.kind = kind
        self.group = group
        self.given = frozenset(given)
        self.foreign = foreign
        self._also = [OWN, also] if also else [OWN]
        self._problem = problem
        self._parts: dict[str, T] = {}
        self._settings: dict[int, tuple[Any, dict[str, Setting]]] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its argument under `name`; raises ValueError if the name is taken."""
        if name in self._parts:
            raise ValueError(f"{self.kind} {name!r} is registered already")

        def add_part(part: T) -> T:
            self._parts[name] = part
            return part

        return add_part

    def own_names(self) -> list[str]:
        """Return the names of flower-kd's own parts."""
        return list(self._parts)

    def names(self) -> list[str]:
        """Return all names: flower-kd's own, then those from installed packages."""
        return [*self._parts, *(name for name in self.installed() if name not in self._parts)]

    def installed(self) -> dict[str, list[EntryPoint]]:
        """Return the entry points of installed packages by name, also of names that are taken by flower-kd."""
        return _installed().get(self.group, {}) if self.group else {}

    def __contains__(self, name: object) -> bool:
        return name in self._parts or name in self.installed()

    def parse(self, text: str) -> PartText:
        """Return the name and the arguments in a text; raises InputError if it cannot be read."""
        return parse(text, self.kind)

    def get(self, text: str) -> T:
        """Return the part that a text names, regardless of its arguments.

        Raises
        ------
        InputError
            If there is no such part, or it cannot be imported.
        """
        name = self.parse(text).name
        if name in self._parts:
            return self._parts[name]
        if is_own(name):
            module, _, attribute = name.partition(":")
            return self._accepted(name, lambda: _imported(module, attribute), "")
        point = self._entry_point(name)
        return self._accepted(name, point.load, f" of package {_package(point)}")

    def source(self, text: str) -> Source:
        """Return where a part comes from, without importing it; raises InputError if there is no such part."""
        name = self.parse(text).name
        if name in self._parts:
            return Source()
        if is_own(name):
            return Source(module=name.partition(":")[0])
        return Source(package=_package(self._entry_point(name)))

    def settings(self, text: str) -> dict[str, Setting]:
        """Return the settings of the part that a text names; raises the errors of `get`."""
        part = self.get(text)
        found = self._settings.get(id(part))
        if found is None or found[0] is not part:
            try:
                whole = self.foreign and isinstance(part, type)
                found_in = signatures.parameters_of if whole else signatures.settings_of
                declared = found_in(cast(Callable[..., Any], part))
            except (InputError, ValueError, TypeError) as error:  # some C functions have no signature
                raise InputError(f"{self.kind} {self.parse(text).name!r} cannot be used: {error}") from None
            own = {name: setting for name, setting in declared.items() if name not in self.given}
            found = self._settings[id(part)] = (part, own)
        return found[1]

    def bind(self, text: str, /, **options: Any) -> Callable[..., Any]:
        """Return the part that a text names, with its settings bound; a class is not instantiated yet.

        Parameters
        ----------
        text : str
            Such as "regular(degree=4)".
        **options
            More settings.

        Raises
        ------
        InputError
            If there is no such part, or its settings are unknown, missing, or of another type or range.
        """
        found = self.parse(text)
        part, settings = self.get(text), self.settings(text)
        twice = next((name for name in options if name in found.arguments), None)
        if twice is not None:
            raise InputError(f"{self.kind} {text!r} is given {twice} = {options[twice]!r} once more")
        owner = f"{self.kind} {found.name!r}"
        arguments = {**found.arguments, **options}
        supplied = next((name for name in arguments if name in self.given and name not in settings), None)
        if supplied is not None and supplied in signatures.parameters_of(cast(Callable[..., Any], part)):
            raise InputError(f"{owner}: {supplied} is supplied by flower-kd and cannot be set")
        bound = signatures.check_arguments(owner, settings, arguments, f"{owner}: ", found.name)
        return partial(cast(Callable[..., Any], part), **bound)

    def make(self, text: str, given: Mapping[str, Any] | None = None, /, **options: Any) -> Any:
        """Return a callable: a function with its settings bound, or an instance of a class.

        Parameters
        ----------
        text : str
            Such as "trimmed-mean(share=0.2)".
        given : mapping, optional
            What flower-kd supplies by keyword, as far as the part takes it.
        **options
            More settings.

        Raises
        ------
        InputError
            As in `bind`, or if the instance cannot be made.
        """
        bound = self.bind(text, **options)
        part = cast(Any, bound).func
        taken = signatures.parameters_of(part)
        keywords = {name: value for name, value in (given or {}).items() if name in taken}
        if not isinstance(part, type):
            return partial(bound, **keywords) if keywords else bound
        return self.call(text, bound, **keywords)

    def call(self, text: str, bound: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
        """Return what a part returns; raises InputError in one sentence if it fails."""
        try:
            return bound(*arguments, **keywords)
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # a part may be the user's code
            raise InputError(f"{self.kind} {text!r} fails: {describe(error)}") from error

    def filled(self, text: str, values: Mapping[str, Any]) -> str:
        """Return a text in which settings that it leaves open have the values of the same names.

        Parameters
        ----------
        text : str
            Such as "skew".
        values : mapping
            Plain values by name; others than the part's settings are ignored, and all are in a `foreign` registry.
        """
        found = self.parse(text)
        if self.foreign:
            return text
        added = {name: values[name] for name in self.settings(text) if name in values and name not in found.arguments}
        return str(PartText(found.name, {**found.arguments, **added})) if added else text

    def _entry_point(self, name: str) -> EntryPoint:
        points = self.installed().get(name, [])
        if not points:
            raise InputError(unknown(self.kind, name, [*self.names(), *self._also], with_colon(name)))
        if len(points) > 1:
            packages = " and ".join(sorted(_package(point) for point in points))
            raise InputError(
                f"{self.kind} {name!r} is in several installed packages, {packages}: write {points[0].value!r} or "
                f"{points[1].value!r}"
            )
        return points[0]

    def _accepted(self, name: str, load: Callable[[], Any], where: str) -> T:
        try:
            part = load()
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # importing runs the user's code
            raise InputError(f"{self.kind} {name!r}{where} cannot be imported: {describe(error)}") from error
        if not callable(part):
            raise InputError(f"{self.kind} {name!r}{where} is of type {type(part).__name__}, which is not callable")
        problem = self._problem(part)
        if problem:
            raise InputError(f"{self.kind} {name!r}{where} {problem}")
        return cast(T, part)


def first_line(part: Any) -> str:
    """Return the first line of a part's docstring; empty if it has none."""
    while isinstance(part, partial):
        part = part.func
    documented = part if isinstance(part, type) or inspect.isroutine(part) else type(part)
    return (inspect.getdoc(documented) or "").strip().split("\n")[0]


def with_colon(name: str) -> str:
    """Return "my.parts:Renyi" for "my.parts.Renyi" if there is such a module; empty otherwise."""
    module, _, attribute = name.rpartition(".")
    own = f"{module}:{attribute}"
    try:
        return own if is_own(own) and find_spec(module) is not None else ""
    except Exception:  # the module's package is the user's code, or does not exist
        return ""


def forget_installed() -> None:
    """Look for entry points again the next time they are needed."""
    _installed.cache_clear()


@lru_cache(maxsize=1)
def _installed() -> dict[str, dict[str, list[EntryPoint]]]:
    """Return the entry points for parts, by group and name: looking through all installed packages takes a while."""
    everything = entry_points()
    found: dict[str, dict[str, list[EntryPoint]]] = {}
    for group in everything.groups:
        if group.startswith("flower_kd."):
            for point in sorted(everything.select(group=group), key=lambda point: (point.name, point.value)):
                found.setdefault(group, {}).setdefault(point.name, []).append(point)
    return found


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown"


def _imported(module: str, attribute: str) -> Any:
    """Return an attribute of a module; a module of a new file is found too."""
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        importlib.invalidate_caches()
        found = importlib.import_module(module)
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            public = [other for other in dir(found) if not other.startswith("_")]
            hint = _hidden(module.partition(".")[0]) or near(name, public)
            raise AttributeError(f"{error}{hint}") from None
    return found


def _hidden(package: str) -> str:
    """Return which module of the current folder another one hides, in words; empty if none."""
    loaded = getattr(sys.modules.get(package), "__file__", None) or "a part of Python"
    for here in (Path(f"{package}.py"), Path(package, "__init__.py")):
        if here.is_file() and here.resolve() != Path(loaded).resolve():
            return f"; it is {loaded}, which hides {here} in the current folder: rename that"
    return ""
