"""How what the hint of a failed turn advises is done (contract 08 §6.4): with the commands of a shell, or in a chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lash_cli.core.outcome import TurnResult


class Steps(NamedTuple):
    """What is typed for each step: to say the text `again`, with another `model` or `elsewhere`; `anew` where the
    configuration was changed for it and a `key` was, which may need nothing more. `raised` says by reason what raises
    a limit. None is what cannot be done, as the session is gone."""

    again: str
    anew: str
    key: str
    model: str
    elsewhere: str
    shorter: str
    raised: Mapping[str, str]
    on: str | None = None
    back: str | None = None
    look: str | None = None


def shell_steps(result: TurnResult, *, is_kept: bool) -> Steps:
    """The steps in a shell; the session of a turn that is not `is_kept` is gone."""
    session = result.session_id
    again = f"lash turn {session if is_kept else '--ephemeral'} '…'"
    return Steps(
        again=again,
        anew=again,
        key="",
        model=f"{again} --model ID",
        elsewhere=f"{again} --provider NAME --model ID",
        shorter=f"make it shorter with: lash compact {session}" if is_kept else "make it shorter",
        raised={"max_turns": "--max-steps N", "max_cost": "--max-cost USD"},
        on=again if is_kept else None,
        back=f"lash tree {session}, then: lash rewind {session} --to ID" if is_kept else None,
        look=_look(result) if is_kept else None,
    )


def chat_steps(result: TurnResult) -> Steps:
    """The steps in the chat that shows the turn, which reads keys and configuration when it begins."""
    anew = "/exit, come back as that says, and /retry"
    return Steps(
        again="/retry",
        anew=anew,
        key=f", then: {anew}",
        model="/model ID, then /retry",
        elsewhere="/set provider=NAME model=ID, then /retry",
        shorter="make it shorter with: /compact",
        raised={"max_turns": "/set max_steps=N before it", "max_cost": "--max-cost USD of lash turn"},
        on="send another text",
        back="/rewind ?",
        look=_look(result),
    )


def _look(result: TurnResult) -> str:
    return f"look at it with: lash show {result.session_id} --turn {result.turn_id}"
