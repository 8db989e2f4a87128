"""Helpers for tests of Flower's engines."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def as_run_config(config: dict[str, object]) -> str:
    """Return a config as `flwr run --run-config` takes it."""
    return " ".join(f"{key}={_toml(value)}" for key, value in config.items())


def _toml(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value).lower()
