"""`lash wait`: block until something holds, whoever brings it about (contract 08 §5.1).

Conditions are judged from one picture of the store, so several of them hold at
the same moment. Waiting changes nothing, takes no lane and needs no provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import typer

from lash_cli.cli.arguments import SessionArgument
from lash_cli.cli.documents import Document, is_lease_live, lease_document, session_status
from lash_cli.cli.durations import duration_ms
from lash_cli.cli.output import emit_one, safe, say
from lash_cli.cli.queue_access import input_not_found
from lash_cli.cli.reading import named_session, present_row, reading_store, run_at_once
from lash_cli.cli.session_detail import find_turn
from lash_cli.cli.turn_documents import outcome_document
from lash_cli.cli.waiting import look_until, tell_if_stuck
from lash_cli.core.ingress import InputState
from lash_cli.errors import UsageError, WaitTimeout
from lash_cli.store.base import RuntimePersistence, SessionRow
from lash_cli.system import SystemClock, is_definitely_dead
from lash_cli.views.shell_words import shell_word

KINDS = ("idle", "queue-empty", "turn", "input")
NAMING = frozenset({"turn", "input"})


class Condition(NamedTuple):
    """One thing to wait for; `subject` is the id of the turn or the input."""

    kind: str
    subject: str | None = None

    def __str__(self) -> str:
        return self.kind if self.subject is None else f"{self.kind}={self.subject}"


def command(
    session: SessionArgument = None,
    until: Annotated[
        list[str] | None,
        typer.Option("--for", metavar="CONDITION", help="idle (default), queue-empty, turn=T or input=IN; repeatable."),
    ] = None,
    timeout: Annotated[str | None, typer.Option(metavar="DUR", help="Give up after this long (exit 124).")] = None,
) -> int:
    """Wait until a session is idle, its queue empty, a turn ended or an input used.

    idle: nobody works on it and no turn is unfinished. queue-empty: nothing
    waits that could be taken; what a running turn took does not count. input=IN:
    a turn used it, or it was cancelled. With several, all of them hold at once.
    """
    conditions = [parse_condition(text) for text in until or ["idle"]]
    timeout_ms = duration_ms(timeout) if timeout is not None else None
    document = run_at_once(_run(session, conditions, timeout_ms, timeout))
    met = ", ".join(item["condition"] for item in document["conditions"])
    emit_one("Wait", document, text=f"{safe(document['session_name'])}: {met}")
    return 0


def parse_condition(text: str) -> Condition:
    """One `--for`; raises `UsageError` for a condition that is not known."""
    kind, equals, subject = text.partition("=")
    if kind == "process":
        raise UsageError("--for process=P is not known yet", hint=f"there are: {_known()}")
    if kind not in KINDS or bool(equals) != (kind in NAMING) or (equals and not subject):
        raise UsageError(f"--for cannot be {text!r}", hint=f"there are: {_known()}")
    return Condition(kind, subject or None)


def _known() -> str:
    return ", ".join(f"{kind}=ID" if kind in NAMING else kind for kind in KINDS)


async def _run(
    reference: str | None, conditions: Sequence[Condition], timeout_ms: int | None, timeout_text: str | None
) -> Document:
    async with named_session(reading_store(), reference) as (store, session):
        session_id = session.meta.session_id
        _tell_if_held(session, conditions)
        started_at = SystemClock().monotonic()
        latest: list[Document] = []
        told_stuck: set[str] = set()

        async def look() -> list[Document] | None:
            row = await present_row(store, session_id)
            tell_if_stuck(row, told_stuck)
            latest[:] = [await _judge(store, row, condition) for condition in conditions]
            return latest if all(item["met"] for item in latest) else None

        met = await look_until(store, look, timeout_ms)
        document = {
            "id": session_id,
            "session_name": session.meta.name,
            "conditions": list(latest),
            "waited_ms": round((SystemClock().monotonic() - started_at) * 1000),
        }
        if met is None:
            raise await _timed_out(store, session_id, document, timeout_text)
        return document


def _tell_if_held(session: SessionRow, conditions: Sequence[Condition]) -> None:
    """What a held queue keeps ends no wait by itself."""
    if session.meta.held_at_ms is not None and any(condition.kind != "turn" for condition in conditions):
        say(f"the queue is held; let it go on with: lash queue release {shell_word(session.meta.name)}")


async def _timed_out(
    store: RuntimePersistence, session_id: str, document: Document, timeout_text: str | None
) -> WaitTimeout:
    row = await store.session_row(session_id)
    now_ms = SystemClock().now_ms()
    open_ones = ", ".join(item["condition"] for item in document["conditions"] if not item["met"])
    lease = lease_document(row.lease, now_ms, is_definitely_dead) if row is not None else None
    return WaitTimeout(
        f"not within {timeout_text}: {open_ones}",
        hint=f"see who works on it with: lash show {shell_word(document['session_name'])}",
        details={"wait": document, "lease": lease},
    )


async def _judge(store: RuntimePersistence, row: SessionRow, condition: Condition) -> Document:
    """Whether a condition holds now, and what is known about its subject.

    Raises `NotFoundError` (`turn_unknown`, `input_not_found`) for a subject that is not there.
    """
    document: Document = {"condition": str(condition), "met": False, "state": None, "turn_id": None, "outcome": None}
    match condition.kind:
        case "idle":
            document["state"] = session_status(row, SystemClock().now_ms(), is_definitely_dead)
            document["turn_id"] = row.running_turn_id
            is_driven = is_lease_live(row.lease, SystemClock().now_ms(), is_definitely_dead)
            document["met"] = row.running_turn_id is None and not is_driven
        case "queue-empty":
            document["met"] = row.pending_inputs == 0 and row.pending_batches == 0
        case "turn":
            await _judge_turn(store, row, condition.subject or "", document)
        case _:
            await _judge_input(store, row, condition.subject or "", document)
    return document


async def _judge_turn(store: RuntimePersistence, row: SessionRow, turn_id: str, document: Document) -> None:
    turn = await find_turn(store, row.meta.session_id, turn_id)
    document.update(met=turn.state == "committed", state=turn.state, turn_id=turn_id)
    if turn.summary is not None:
        document["outcome"] = outcome_document(turn.summary.outcome)


async def _judge_input(store: RuntimePersistence, row: SessionRow, input_id: str, document: Document) -> None:
    found = await store.turn_input(row.meta.session_id, input_id)
    if found is None:
        raise input_not_found(input_id, row.meta.name)
    stored, turn_id = found
    document.update(
        met=stored.state in (InputState.COMPLETED, InputState.CANCELLED), state=stored.state.value, turn_id=turn_id
    )
    turn = await store.turn(row.meta.session_id, turn_id) if turn_id is not None else None
    if turn is not None and turn.summary is not None:
        document["outcome"] = outcome_document(turn.summary.outcome)
