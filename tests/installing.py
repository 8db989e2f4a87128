"""Installs a project of this repository as users do, without a package index."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"


def install(project: Path, folder: Path) -> Path:
    """Build a project's wheel, and install it into a new folder below the given one; its dependencies are here."""
    target = folder / "installed"
    built = subprocess.run(
        [sys.executable, "-c", _BUILD, str(folder)], cwd=project, capture_output=True, text=True, check=True
    )
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--target", str(target), str(folder / built.stdout.split()[-1])], check=True)
    return target
