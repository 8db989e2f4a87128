"""Which flower_kd a message gets: that of the app, as after a cold start, though another is imported already."""

from __future__ import annotations

import filecmp
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

PACKAGE = "flower_kd"


def prefer_those_of_the_app() -> None:
    """Have the next import of this package find the app's, which is in `sys.path` by then.

    If its code is that of the imported modules, or the app has none, they are used as they are.
    """
    imported = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == PACKAGE}
    for name in imported:
        del sys.modules[name]
    sys.meta_path.insert(0, _Finder(imported))


class _Finder(MetaPathFinder):
    """Finds the package once."""

    def __init__(self, imported: dict[str, ModuleType]) -> None:
        self.imported = imported

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to import the package; None for any other."""
        if fullname != PACKAGE:
            return None
        sys.meta_path.remove(self)
        found = PathFinder.find_spec(PACKAGE)
        installed = Path(str(self.imported[PACKAGE].__file__)).parent
        if found is None or found.origin is None or _same_code(Path(found.origin).parent, installed):
            return spec_from_loader(PACKAGE, _Imported(self.imported))
        print(
            f"flower-kd: the app has a flower_kd of its own, which differs from the one in {str(installed)!r}: each "
            "message imports the app's",
            file=sys.stderr,
        )
        return found


class _Imported(Loader):
    """Puts modules back that were imported before."""

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self.modules = modules
        self.spec = modules[PACKAGE].__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the package."""
        return self.modules[PACKAGE]

    def exec_module(self, module: ModuleType) -> None:
        """Put the package's modules back."""
        module.__spec__ = self.spec
        sys.modules.update(self.modules)


def _same_code(folder: Path, installed: Path) -> bool:
    """Return whether each module of a folder is the installed one."""
    if folder == installed:
        return True
    try:
        return all(
            filecmp.cmp(file, installed / file.relative_to(folder), shallow=False) for file in folder.rglob("*.py")
        )
    except OSError:  # not installed
        return False
