"""A page: what it holds, and its HTML, which needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@dataclass(frozen=True)
class Page:
    """What a page shows.

    Parameters
    ----------
    template : str
        The name of its template, without ending.
    title, lead : str
        Heading, and a line below it.
    content : mapping
        What else the template names.
    """

    template: str
    title: str
    lead: str
    content: Mapping[str, Any] = field(default_factory=dict)

    def html(self) -> str:
        """Return the page, with all text escaped."""
        return (
            _environment()
            .get_template(f"{self.template}.html.j2")
            .render(title=self.title, lead=self.lead, **self.content)
        )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("flower_kd.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
