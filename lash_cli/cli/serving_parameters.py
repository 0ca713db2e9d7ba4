"""What the methods of `lash serve --stdio` take: the options of the verbs they are named after (contract 08 §5).

A parameter that is not here is refused, so a misspelt one is never ignored.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from lash_cli.core.ingress import Boundary


class Parameters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of what methods take."""


class NoParameters(Parameters, kw_only=True):
    """Nothing."""


class SessionParameters(Parameters, kw_only=True):
    """A session: an id, a name, a unique prefix, `@last` or `@any`; without one the session of this server."""

    session: str | None = None


class PromptParameters(SessionParameters, kw_only=True):
    """As `lash turn`. With `events` off only the response comes."""

    text: str
    key: str | None = None
    turn_id: str | None = None
    max_steps: int | None = None
    timeout_ms: int | None = None
    or_open: bool = False
    if_busy: str | None = None
    model: str | None = None
    provider: str | None = None
    events: bool = True


class EnqueueParameters(SessionParameters, kw_only=True):
    """As `lash enqueue`."""

    text: str
    key: str | None = None
    now: bool = False
    turn: str | None = None
    boundary: Boundary | None = None
    or_next: bool = False


class CancelParameters(SessionParameters, kw_only=True):
    """As `lash cancel`."""

    turn: str | None = None
    reason: str | None = None


class CancelSuffixParameters(SessionParameters, kw_only=True):
    """As `lash cancel-suffix`: an anchor by its id or by its key."""

    anchor: str | None = None
    key: str | None = None


class ShowParameters(SessionParameters, kw_only=True):
    """As `lash show`; with `turn` one of its turns."""

    turn: str | None = None


class ShutdownParameters(Parameters, kw_only=True):
    """`drain`: let running turns end by themselves instead of cancelling them."""

    drain: bool = False


class TailParameters(SessionParameters, kw_only=True, rename={"begin": "from"}):
    """As `lash tail`, of one session. `stop` names a tail that is to end, and nothing else is given then.

    `begin` (`from`) is start, last-commit, now or a cursor. `until` is idle, turn or committed; without `follow` it
    ends when all that is there was told.
    """

    begin: str = "now"
    until: Literal["idle", "turn", "committed"] | None = None
    timeout_ms: int | None = None
    types: list[str] | None = None
    follow: bool = True
    strict_gap: bool = False
    stop: str | int | None = None
