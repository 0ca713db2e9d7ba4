"""The user guide by topic, the glossary and the decisions, as Markdown files beside this module.

Every example of every topic is run by a test. A topic is a file; its first
heading is its title. `ORDER` is the order in which they are listed; a file that
is not in it comes behind, by its name.
"""

from __future__ import annotations

import os

ORDER = (
    "quickstart", "scripting", "answers", "queue", "tail", "chat", "history", "shelf", "durability", "serve",
    "embedding", "providers", "configuration", "security", "trace", "loopback", "architecture", "glossary",
)  # fmt: skip
# Other words for a topic.
ALIASES = {
    "python": "embedding", "cursors": "tail", "rpc": "serve", "words": "glossary", "models": "providers",
    "keys": "providers", "start": "quickstart", "config": "configuration", "export": "shelf", "search": "shelf",
}  # fmt: skip

_DIRECTORY = os.path.dirname(__file__)
_SUFFIX = ".md"


def names() -> list[str]:
    """Every topic, in order."""
    found = sorted(name.removesuffix(_SUFFIX) for name in os.listdir(_DIRECTORY) if name.endswith(_SUFFIX))
    known = [name for name in ORDER if name in found]
    return [*known, *(name for name in found if name not in known)]


def read(topic: str) -> str:
    """The text of a topic, one of `names()`."""
    with open(os.path.join(_DIRECTORY, topic + _SUFFIX), encoding="utf-8") as file:
        return file.read()


def title(topic: str) -> str:
    """The first heading of a topic."""
    return read(topic).partition("\n")[0].lstrip("# ").strip()
