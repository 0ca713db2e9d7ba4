"""What a program may ask of `lash serve --stdio`: the verbs of the shell, as methods (contract 08 §6.5).

Each does what the verb of its name does, in the same words: parameters are the
options, a result is the document that `-o json` prints, an error is the error
object, with its exit status in `exit`. A turn is driven by this process, and
its events are the lines of `lash turn -o jsonl`; a tail only reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from lash_cli.api.queue import source_key_of
from lash_cli.cli.documents import Document
from lash_cli.cli.enqueueing import EnqueuePlan, enqueue, enqueue_instead
from lash_cli.cli.output import SCHEMA
from lash_cli.cli.reading import run_at_once
from lash_cli.cli.serving_parameters import (
    CancelParameters,
    CancelSuffixParameters,
    EnqueueParameters,
    NoParameters,
    PromptParameters,
    SessionParameters,
    ShowParameters,
    ShutdownParameters,
    TailParameters,
)
from lash_cli.cli.serving_tail import Tails
from lash_cli.cli.serving_turn import ServedTurn, opened_session
from lash_cli.core.content import TurnInput
from lash_cli.core.ids import is_session_id
from lash_cli.core.ingress import ByInputId, BySourceKey
from lash_cli.errors import BusyError, SessionExecutionBusy, UsageError
from lash_cli.remote.rpc import Call, Method
from lash_cli.system import SystemClock

if TYPE_CHECKING:
    from lash_cli.api import LashSession

T = TypeVar("T")

ORIGIN = "lash serve"


class Verbs:
    """The methods of one server."""

    def __init__(self, session: str | None, approve: Mapping[str, str], shut_down: Callable[[bool], None]) -> None:
        """`session` is the one meant when a request names none; `shut_down` ends the server."""
        self._session = session
        self._approve = approve
        self._shut_down = shut_down
        self._opened: set[LashSession] = set()
        self._why_over: str | None = None
        self.tails = Tails()

    def methods(self) -> dict[str, Method]:
        """By name, in the order of `ready`."""
        return {
            "prompt": Method(PromptParameters, self.prompt, is_quick=False),
            "enqueue": Method(EnqueueParameters, self.enqueue),
            "cancel": Method(CancelParameters, self.cancel),
            "cancel_suffix": Method(CancelSuffixParameters, self.cancel_suffix),
            "tail": Method(TailParameters, self.tail, is_quick=False),
            "show": Method(ShowParameters, self.show),
            "ping": Method(NoParameters, self.ping),
            "shutdown": Method(ShutdownParameters, self.shutdown),
        }

    def end(self, reason: str) -> None:
        """Begin no more turns, and ask those that run to stop; each is committed as cancelled."""
        self._why_over = reason
        self.cancel_if_over()

    def cancel_if_over(self) -> None:
        """Ask again after `end`: a turn that was about to begin then can only hear it now."""
        if self._why_over is not None:
            for session in self._opened:
                session.cancel_running_turns(origin=ORIGIN, reason=self._why_over)

    async def prompt(self, asked: PromptParameters, call: Call) -> Document:
        """Run one turn; the result is its TurnResult, or the PendingInput of a text that was queued instead."""
        from lash_cli.cli.turn_command import busy_policy

        text = _text(asked.text)
        if_busy = busy_policy(asked.if_busy)
        if asked.turn_id is not None and not is_session_id(asked.turn_id):
            raise UsageError(f"{asked.turn_id!r} cannot be a turn id", code="invalid_params")
        async with opened_session(self._named(asked), asked, self._approve) as (core, session):
            if self._why_over is not None:
                raise BusyError(f"{self._why_over}; nothing was sent", code="shutting_down")
            builder = session.turn(
                text,
                turn_id=asked.turn_id,
                key=asked.key,
                max_turns=asked.max_steps,
                busy_wait_ms=if_busy.wait_ms,
                timeout_ms=asked.timeout_ms,
            )
            self._opened.add(session)
            try:
                turn = ServedTurn(core, session, call if asked.events else None)
                return _of("TurnResult", await turn.drive(builder))
            except SessionExecutionBusy:
                if not if_busy.enqueues:
                    raise
                return _of("PendingInput", await enqueue_instead(core.store, session.session_id, text, asked.key))
            finally:
                self._opened.discard(session)

    async def cancel(self, asked: CancelParameters, _: Call) -> Document:
        """Ask the running turn of a session to stop, wherever it runs; the CancelReceipt."""
        from lash_cli.cli.cancel_command import request_cancel

        return _of(
            "CancelReceipt", await request_cancel(self._named(asked), asked.turn, asked.reason, None, origin=ORIGIN)
        )

    async def enqueue(self, asked: EnqueueParameters, _: Call) -> Document:
        """Put text into a queue; the PendingInput."""
        is_now = asked.now or asked.turn is not None
        if not is_now and (asked.boundary is not None or asked.or_next):
            raise UsageError("boundary and or_next are for text that enters a running turn", code="invalid_params")
        if asked.key is not None:
            source_key_of(asked.key)
        plan = EnqueuePlan(
            self._named(asked),
            _text(asked.text),
            asked.key,
            turn_id=asked.turn,
            boundary=(asked.boundary or "after_work") if is_now else None,
            or_next=asked.or_next,
        )
        return _of("PendingInput", await _beside(lambda: enqueue(plan)))

    async def cancel_suffix(self, asked: CancelSuffixParameters, _: Call) -> Document:
        """Cancel an input and everything behind it; the CancelOutcomeList."""
        from lash_cli.cli.queue_cancel import cancel_error, suffix_outcomes

        if (asked.anchor is None) == (asked.key is None):
            raise UsageError("one of anchor and key is needed", code="invalid_params")
        anchor = BySourceKey(source_key_of(asked.key)) if asked.key is not None else ByInputId(asked.anchor or "")
        items = await _beside(lambda: suffix_outcomes(self._named(asked), anchor))
        error = cancel_error(items)
        if error is not None:
            raise error
        return _of("CancelOutcomeList", {"items": items, "next": None})

    async def show(self, asked: ShowParameters, _: Call) -> Document:
        """A Session, or one Turn of it."""
        from lash_cli.cli.session_detail import read_session_detail
        from lash_cli.cli.show_command import read_turn

        if asked.turn is not None:
            return _of("Turn", await read_turn(self._named(asked), asked.turn))
        return _of("Session", await read_session_detail(self._named(asked)))

    async def tail(self, asked: TailParameters, call: Call) -> Document:
        """Follow a session; ends as asked, when it is stopped by another `tail`, and with the server."""
        return _of("RpcTail", await self.tails.follow(asked, self._named(asked), call))

    async def ping(self, _: NoParameters, __: Call) -> Document:
        """Answer."""
        from lash_cli.views.times import rfc3339

        return _of("RpcPong", {"now": rfc3339(SystemClock().now_ms())})

    async def shutdown(self, asked: ShutdownParameters, _: Call) -> Document:
        """End the server. Every other request gets its response after this one."""
        self._shut_down(asked.drain)
        return _of("RpcShutdown", {"drain": asked.drain})

    def _named(self, asked: SessionParameters) -> str | None:
        return self._session if asked.session is None else asked.session


def _text(text: str) -> TurnInput:
    if not text.strip():
        raise UsageError("the text is empty; nothing was sent", code="empty_prompt")
    return TurnInput.text(text)


async def _beside(make_work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Work of a few statements, in a thread, so that a wait for the database stops nobody else."""
    return await asyncio.to_thread(lambda: run_at_once(make_work()))


def _of(kind: str, document: Mapping[str, Any]) -> Document:
    return {"schema": SCHEMA, "kind": kind, **document}
