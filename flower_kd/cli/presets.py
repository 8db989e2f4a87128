"""Run configs and experiments that come with the package: `preset:NAME` wherever a command takes a TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from flower_kd.errors import InputError, unknown

PREFIX = "preset:"

_PACKAGE = Path(__file__).parents[1]
# A wheel has them in the package (see pyproject.toml), a clone at the top.
_INSTALLED, _CLONED = _PACKAGE / "presets", (_PACKAGE.parent / "strategies", _PACKAGE.parent / "sim")


@dataclass(frozen=True)
class Preset:
    """A file that comes with the package.

    Parameters
    ----------
    name : str
        What follows "preset:".
    path : Path
        The file.
    description : str
        Its first comment.
    is_experiment : bool
        Whether it has the runs of a comparison, rather than the keys of one run.
    scales : tuple of str
        Its smaller or larger versions, for `--scale`.
    """

    name: str
    path: Path
    description: str
    is_experiment: bool
    scales: tuple[str, ...] = ()

    @property
    def usage(self) -> str:
        """The command that takes it."""
        return f"flower-kd {'compare' if self.is_experiment else 'run -c'} {PREFIX}{self.name}"


def presets() -> list[Preset]:
    """Return all presets: those of single runs, then experiments."""
    folders = (_INSTALLED,) if _INSTALLED.is_dir() else _CLONED
    found = [_read(path) for folder in folders for path in sorted(folder.glob("*.toml"))]
    return sorted(found, key=lambda preset: preset.is_experiment)


def get(name: str) -> Preset:
    """Return the preset called `name`; raises InputError with the allowed names."""
    known = {preset.name: preset for preset in presets()}
    if name not in known:
        raise InputError(unknown("preset", name, list(known)))
    return known[name]


def path_of(text: str, *, experiment: bool) -> Path:
    """Return the path of a TOML file.

    Parameters
    ----------
    text : str
        "preset:NAME", or a path, which is returned as it is.
    experiment : bool
        Whether a preset must be an experiment, or else a run config.

    Raises
    ------
    InputError
        If there is no such preset, or it is of the other kind.
    """
    if not text.startswith(PREFIX):
        return Path(text)
    preset = get(text.removeprefix(PREFIX))
    if preset.is_experiment != experiment:
        raise InputError(f"{text!r} is for another command: {preset.usage}")
    return preset.path


def _read(path: Path) -> Preset:
    content = path.read_text("utf-8")
    first = content.partition("\n")[0]
    tables = tomllib.loads(content)
    return Preset(path.stem, path, first.removeprefix("#").strip(), "runs" in tables, tuple(tables.get("scale", {})))
