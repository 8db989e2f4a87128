"""What MkDocs does beside its plugins: pages made from the code, and a check that every public name is documented."""

from __future__ import annotations

import importlib
from dataclasses import fields
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from flower_kd.catalog import OF_THE_RUN, REGISTRIES
from flower_kd.config import RunConfig
from flower_kd.keys import keys
from flower_kd.parts.description import described
from flower_kd.parts.registry import Registry, first_line

# Everything in `__all__` of these must be on the reference page.
PUBLIC = ("flower_kd", "flower_kd.sim", "flower_kd.testing")


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
    lines = [
        "# Settings",
        "",
        "The keys of a run config, in `-c` and in `[tool.flwr.app.config]`. `flower-kd settings` prints this table.",
        "",
        "A value that names a [part](parts.md) may set the part's own settings in parentheses:",
        "`topology = 'regular(degree=6)'`. Keys are written with hyphens (`learning-rate`), settings in parentheses",
        "with underscores (`rewire_probability`). A setting that is also a key takes the key's value unless the",
        "parentheses set it: `partition = 'skew(gamma=5)'`, `strategy = 'neighbor-kd(alpha=0.2)'`.",
        "",
        "A key that was changed and has no effect is named in one warning; in a sweep it is refused. Under `flwr run`,",
        "Flower itself refuses a key that is not in the app's `[tool.flwr.app.config]`, and says no more than",
        "`[code: 15] Invalid run configuration.`: `flower-kd run` with the same `-c` names the wrong key, or where it",
        "has moved.",
        "",
        "| key | default | values | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for key in keys():
        values = f"part: [{key.kind}](parts.md#{key.kind})" if key.kind else key.allowed
        lines.append(f"| `{key.name}` | `{key.default}` | {values} | {key.meaning} |")
    return "\n".join(lines) + "\n"


def parts() -> str:
    """Return the page of all parts of flower-kd."""
    lines = [
        "# Parts",
        "",
        "What a value of these keys may name, and the settings that it may have in parentheses, which are written with",
        "underscores: `regular(degree=6)`, `neighbor-kd(pooling_self=true)`. A setting that is also a",
        "[key](settings.md) takes the key's value unless the parentheses set it: `skew(gamma=5)`,",
        f"`neighbor-kd(alpha=0.2)`. Only as keys can be set {_of_the_run()}.",
        "",
        "`flower-kd parts` lists the same, with the parts of installed packages. Parts of your own:",
        "[Extending](extending.md).",
    ]
    for kind, registry in REGISTRIES.items():
        lines += ["", f"## {kind}", "", "| name | settings | what it is |", "| --- | --- | --- |"]
        for name in registry.own_names():
            line = first_line(registry.get(name)).replace("|", "\\|")
            lines.append(f"| `{name}` | {_settings(registry, name)} | {line} |")
    return "\n".join(lines) + "\n"


def _of_the_run() -> str:
    """Return the arguments of strategies that only keys set."""
    *others, last = (f"`{name}`" for name in OF_THE_RUN)
    return f"{', '.join(others)} and {last}"


def _settings(registry: Registry[Any], name: str) -> str:
    """Return a part's settings."""
    keys = set() if registry.foreign else {spec.name for spec in fields(RunConfig)}
    return "<br>".join(f"`{text}` ({values})" for text, values in described(registry.settings(name), keys))
