"""The seeds of a study."""

from __future__ import annotations

from flower_kd.errors import InputError


def parse(text: str, first: int) -> list[int]:
    """Return the seeds of `--seeds`.

    Parameters
    ----------
    text : str
        A number of seeds, counted from the first, or a comma-separated list.
    first : int
        The seed of the config.

    Raises
    ------
    InputError
        If it is neither, or a seed is repeated.
    """
    parts = [part.strip() for part in text.removesuffix(",").split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise InputError(f"--seeds {text!r} must be a number of seeds, such as 3, or a list of them, such as 0,4,7")
    if "," in text:
        seeds = [int(part) for part in parts]
        twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
        if twice is not None:
            raise InputError(f"--seeds {text!r} lists {twice} twice")
        return seeds
    if int(text) == 0:
        raise InputError("--seeds 0 must be at least 1")
    return list(range(first, first + int(text)))
