"""Shapes of what the shelf answers: search, costs, names and labels, archives (contract 08 §5.1)."""

from __future__ import annotations

from lash_cli.cli.schemas.sessions import Usage
from lash_cli.cli.schemas.shape import Count, Shape, Time
from lash_cli.cli.schemas.transcripts import MessageItem
from lash_cli.core.archive import ExportFile


class NearMessage(Shape):
    """A message beside one that was found."""

    id: str
    role: str
    at: Time
    text: str


class SearchHit(Shape):
    """A message that was found (`lash search`). `matches` are the places of `snippet` that matched: pairs of character
    positions, the second exclusive. `on_path` is false for what a rewind or another branch left behind."""

    id: str
    session: str
    session_name: str
    role: str
    at: Time
    on_path: bool
    snippet: str
    matches: list[tuple[Count, Count]]
    before: list[NearMessage]
    after: list[NearMessage]


class UsageRow(Usage):
    """What was spent (`lash usage --by …`), for one value of each thing it was grouped by; the others are null. `day`
    is a day of UTC. `cost_micros` is null where a price is not known; it is an estimate where a request may have had
    the price of long contexts."""

    id: str
    day: str | None
    session: str | None
    session_name: str | None
    source: str | None
    model: str | None
    cost_micros: Count | None
    currency: str | None
    cost_is_estimate: bool


class SessionSettings(Shape):
    """What a session is called and runs under (`lash set`, `rename`, `label`); `changed` names what is other than it
    was. `variant` is the effort its model was set to, or `off`; null is what the provider does by itself."""

    id: str
    name: str
    labels: dict[str, str]
    provider: str
    model: str
    variant: str | None
    max_steps: int | None
    system: str | None
    temperature: float | None
    seed: int | None
    stop: list[str] | None
    changed: list[str]


class ExportedSession(Shape):
    """A session that was exported. `cut_off` counts its nodes that lead to no root, because one above them is missing:
    json has them beside the session, the other formats not at all."""

    id: str
    name: str
    cut_off: Count


class Exported(Shape):
    """A file that was written (`lash export --out`). `format`: md, html, json or jsonl."""

    id: str
    file: str
    format: str
    redacted: bool
    bytes: Count
    sessions: list[ExportedSession]


class ExportedMessage(MessageItem):
    """A line of `lash export --as jsonl`: a committed message and its session."""

    session: str
    session_name: str


# What is absent is left out; `lash import` reads nothing else.
FILES = {"SessionExport": ExportFile}
