"""What a key means at this moment, as pure decisions (contract 08 §7.4).

Everything that matters to a decision is in `Moment`; the faces only carry it
out. Two laws are kept here and nowhere else: a key never destroys text, and
Ctrl-C with a draft never cancels a turn.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple

AGAIN_WITHIN_S = 2.0

TurnStanding = Literal["none", "own", "foreign", "stuck"]
CtrlCOrder = Literal["draft-first", "turn-first"]


class Do(StrEnum):
    """What is to be done."""

    NOTHING = "nothing"
    CLOSE_POPUP = "close_popup"
    CLOSE_PANEL = "close_panel"
    STASH = "stash"
    CANCEL = "cancel"
    INSIST = "insist"
    ABANDON = "abandon"
    STOP_ASIDE = "stop_aside"
    WARN_QUIT = "warn_quit"
    QUIT = "quit"
    ASK_LEAVE = "ask_leave"
    DELETE = "delete"
    SEND = "send"
    INJECT = "inject"
    OFFER = "offer"
    QUEUE_NEXT = "queue_next"
    DRAIN = "drain"
    FINISH = "finish"
    ACCEPT = "accept"
    HINT_EMPTY = "hint_empty"
    PULL_BACK = "pull_back"
    HISTORY = "history"


class Moment(NamedTuple):
    """What a decision depends on.

    `turn` says who runs a turn: nobody, this chat, another process, or one
    that is gone (`stuck`). `interrupts` counts the Ctrl-C since the turn was
    asked to stop; `since_interrupt_s` is how long the last Ctrl-C ago is.
    `has_aside` says that a command runs beside the chat.
    """

    has_draft: bool = False
    has_popup: bool = False
    has_panel: bool = False
    turn: TurnStanding = "none"
    is_cancelling: bool = False
    interrupts: int = 0
    since_interrupt_s: float = float("inf")
    waiting: int = 0
    own_next: int = 0
    has_aside: bool = False

    @property
    def is_running(self) -> bool:
        """Whether somebody alive runs a turn."""
        return self.turn in ("own", "foreign")


def on_interrupt(moment: Moment, order: CtrlCOrder = "draft-first") -> Do:
    """Ctrl-C: what is open, then the draft, then the turn, then what runs beside it, then the chat. `order` may put the
    turn before the draft."""
    if moment.has_popup:
        return Do.CLOSE_POPUP
    if moment.has_panel:
        return Do.CLOSE_PANEL
    if moment.has_draft and not (order == "turn-first" and moment.is_running and not moment.is_cancelling):
        return Do.STASH
    if moment.is_running:
        if not moment.is_cancelling:
            return Do.CANCEL
        if moment.since_interrupt_s > AGAIN_WITHIN_S:
            return Do.CANCEL
        return Do.INSIST if moment.interrupts < 2 else Do.ABANDON
    if moment.has_aside:
        return Do.STOP_ASIDE
    return Do.QUIT if moment.since_interrupt_s <= AGAIN_WITHIN_S else Do.WARN_QUIT


def on_escape(moment: Moment) -> Do:
    """Esc: what is open, then the turn. The draft is not touched."""
    if moment.has_popup:
        return Do.CLOSE_POPUP
    if moment.has_panel:
        return Do.CLOSE_PANEL
    if moment.is_running and not moment.is_cancelling:
        return Do.CANCEL
    return Do.NOTHING


def on_leave(moment: Moment) -> Do:
    """Ctrl-D: deletes forward in a draft, quits without one, and asks while a turn of this chat runs."""
    if moment.has_draft:
        return Do.DELETE
    return Do.ASK_LEAVE if moment.turn == "own" else Do.QUIT


def on_submit(moment: Moment) -> Do:
    """Enter: send, or inject into a turn of ours; another process's turn is a question. An empty draft sends what
    waits."""
    if not moment.has_draft:
        if moment.is_running:
            return Do.NOTHING
        if moment.turn == "stuck":
            return Do.FINISH
        return Do.DRAIN if moment.waiting else Do.NOTHING
    if moment.turn == "foreign":
        return Do.OFFER
    return Do.INJECT if moment.turn == "own" else Do.SEND


def on_queue_next(moment: Moment) -> Do:
    """Tab: the suggestion, else the next turn's queue while one runs, else send."""
    if moment.has_popup:
        return Do.ACCEPT
    if not moment.has_draft:
        return Do.HINT_EMPTY
    return Do.QUEUE_NEXT if moment.is_running else Do.SEND


def on_up(moment: Moment) -> Do:
    """↑: an empty draft while a turn runs takes the newest own row back; else it is the history."""
    if moment.is_running and not moment.has_draft and moment.own_next:
        return Do.PULL_BACK
    return Do.HISTORY


def after_turn(
    outcome: Literal["finished", "cancelled", "failed"], *, waiting: int, after_interrupt: Literal["hold", "continue"]
) -> Literal["nothing", "drain", "hold"]:
    """What becomes of the queue when a turn of this chat ended: a failed turn holds it whatever is configured."""
    if not waiting:
        return "nothing"
    if outcome == "finished" or (outcome == "cancelled" and after_interrupt == "continue"):
        return "drain"
    return "hold"
