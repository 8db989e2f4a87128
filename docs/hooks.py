"""What MkDocs does beside its plugins: pages made from the code, and a check that every public name is documented."""

from __future__ import annotations

import importlib
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

# Everything in `__all__` of these must be on the reference page.
PUBLIC = ("flower_kd", "flower_kd.sim", "flower_kd.testing", "flower_kd.topology", "flower_kd.wire")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages made from the code."""
    from flower_kd.report import settings_page

    for name, content in {"settings.md": settings_page.settings(), "parts.md": settings_page.parts()}.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_env(env: Any, *, config: Any, files: Files) -> None:
    """Fail if a public name is on no page."""
    autorefs = config.plugins["autorefs"]
    missing = []
    for module in PUBLIC:
        for name in importlib.import_module(module).__all__:
            identifier = f"{module}.{name}"
            try:
                autorefs.get_item_url(identifier)
            except KeyError:
                missing.append(identifier)
    if missing:
        raise PluginError(f"public names without documentation: {', '.join(missing)}")
