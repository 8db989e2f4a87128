"""The code blocks of the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r'^( *)```(\w+)(?: title="([^"]+)")?\n(.*?)^\1```$', re.M | re.S)


class Block(NamedTuple):
    language: str
    title: str
    text: str

    def append_to(self, folder: Path) -> None:
        """Write a block with a title into a file of that name."""
        path = folder / self.title
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(self.text)


def blocks(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page, in order."""
    for indent, language, title, text in _FENCE.findall(page.read_text()):
        yield Block(language, title, re.sub(f"^{indent}", "", text, flags=re.M))
