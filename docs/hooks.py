"""What MkDocs does beside its plugins: pages made from the code, and a check that every public name is documented."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt
from griffe import Docstring, DocstringSectionKind
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from flower_kd.catalog import REGISTRIES
from flower_kd.config import RunConfig
from flower_kd.parts.registry import Registry, first_line
from flower_kd.parts.text import written

# Everything in `__all__` of these must be on the reference page.
PUBLIC = ("flower_kd", "flower_kd.sim", "flower_kd.testing")
WORDS = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}
KINDS = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`"}


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages made from the code."""
    for name, content in {"settings.md": settings(), "parts.md": parts()}.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_env(env: Any, *, config: Any, files: Files) -> None:
    """Fail if a public name is on no page."""
    autorefs = config.plugins["autorefs"]
    missing = []
    for module in PUBLIC:
        for name in importlib.import_module(module).__all__:
            try:
                autorefs.get_item_url(f"{module}.{name}")
            except KeyError:
                missing.append(f"{module}.{name}")
    if missing:
        raise PluginError(f"public names without documentation: {', '.join(missing)}")


def settings() -> str:
    """Return the page of all run-config keys."""
    meanings = _meanings(RunConfig)
    hints = get_type_hints(RunConfig, include_extras=True)
    lines = [
        "# Settings",
        "",
        "The keys of a run config, in `-c` and in `[tool.flwr.app.config]`. A value that names a",
        "[part](parts.md) may set the part's own settings in parentheses: `topology = 'regular(degree=6)'`. A key that",
        "was changed and has no effect is named in one warning; in a sweep it is refused.",
        "",
        "| key | default | values | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for spec in fields(RunConfig):
        key = spec.name.replace("_", "-")
        values = f"a [{key}](parts.md#{key})" if key in REGISTRIES else _values(hints[spec.name])
        lines.append(f"| `{key}` | `{written(spec.default)}` | {values} | {meanings[spec.name]} |")
    return "\n".join(lines) + "\n"


def parts() -> str:
    """Return the page of all parts of flower-kd."""
    lines = [
        "# Parts",
        "",
        "What a value of these keys may name. `flower-kd parts` lists them too, with those of installed packages.",
        "Parts of your own: [Extending](extending.md).",
    ]
    for kind, registry in REGISTRIES.items():
        lines += ["", f"## {kind}", "", "| name | settings | what it is |", "| --- | --- | --- |"]
        for name in registry.own_names():
            line = first_line(registry.get(name)).replace("|", "\\|")
            lines.append(f"| `{name}` | {_settings(kind, registry, name)} | {line} |")
    return "\n".join(lines) + "\n"


def _settings(kind: str, registry: Registry[Any], name: str) -> str:
    """Return a part's own settings; those of a strategy that are keys are on the page of settings."""
    keys = {spec.name for spec in fields(RunConfig)} if kind == "strategy" else set()
    found = [setting for setting in registry.settings(name).values() if setting.name not in keys]
    return "<br>".join(f"`{each.name}={written(each.default)}` ({_values(each.annotation)})" for each in found)


def _meanings(documented: type) -> dict[str, str]:
    """Return the descriptions in a class's docstring by parameter."""
    sections = Docstring(inspect.getdoc(documented) or "").parse("numpy")
    found = next(section for section in sections if section.kind is DocstringSectionKind.parameters)
    return {each.name: " ".join(each.description.split()) for each in found.value}


def _values(annotation: Any) -> str:
    """Return the values that an annotation allows, in words."""
    if get_origin(annotation) is not None and type(None) in get_args(annotation):
        return " or ".join(_values(each) if each is not type(None) else "none" for each in get_args(annotation))
    if not hasattr(annotation, "__metadata__"):
        choices = get_args(annotation)
        return ", ".join(f"`{choice}`" for choice in choices) if choices else KINDS.get(annotation, "any")
    bounds = []
    for entry in annotation.__metadata__:
        for bound in entry if isinstance(entry, Interval) else [entry]:
            value = getattr(bound, fields(bound)[0].name)
            if isinstance(value, float) or abs(value) < 2**53:
                bounds.append(f"{WORDS[type(bound)]} {value:g}")
    return f"{KINDS[annotation.__origin__]}, {' and '.join(bounds)}" if bounds else KINDS[annotation.__origin__]
