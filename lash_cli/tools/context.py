"""The plain tool context: what one running attempt may see (contract 05 §1.6).

Everything is bound to one session and one call. A child process learns the
session and the turn and nothing else (contract 08 §6.6).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from lash_cli.core.content import AttachmentSource
from lash_cli.core.protocols import CancelSignal, ProgressSink, ToolDispatch
from lash_cli.core.tools import FailureClass
from lash_cli.core.wait import AwaitEventKey
from lash_cli.tools.faults import ToolFault

if TYPE_CHECKING:
    from lash_cli.core.direct import DirectLlmCompletion, DirectRequest

SESSION_VARIABLE = "LASH_SESSION"
TURN_VARIABLE = "LASH_TURN"


class SimpleToolContext(msgspec.Struct, frozen=True):
    """Implements `core.protocols.ToolContext` with values given by the dispatcher."""

    session_id: str
    turn_id: str
    call_id: str
    cancel: CancelSignal
    tool_id: str = ""
    attempt: int = 1
    max_attempts: int = 1
    agent_frame_id: str = ""
    prepared_payload: Any = None
    tool_execution_binding: Any = None
    on_dispatch: ToolDispatch | None = None
    on_progress: ProgressSink | None = None
    on_completion_key: Callable[[], Awaitable[AwaitEventKey]] | None = None
    on_direct_completion: Callable[[DirectRequest], Awaitable[DirectLlmCompletion]] | None = None
    on_attachment: Callable[[AttachmentSource], Awaitable[AttachmentSource]] | None = None

    @property
    def replay_key(self) -> str:
        """`lash-tool:{session}:{call}:{tool}`, equal for all attempts of the call and of no other call.

        A call is named with its turn: some models count their calls from zero in every answer.
        """
        return f"lash-tool:{self.session_id}:{self.turn_id}.{self.call_id}:{self.tool_id}"

    @property
    def environment(self) -> Mapping[str, str]:
        """`LASH_SESSION` and `LASH_TURN`."""
        return {SESSION_VARIABLE: self.session_id, TURN_VARIABLE: self.turn_id}

    @property
    def dispatch(self) -> ToolDispatch:
        """See `ToolContext`; raises `ToolFault` (`tool_context_unavailable`) where no attempt is running."""
        if self.on_dispatch is None:
            text = "this call has no other tools: no attempt of it is running in a session"
            raise ToolFault(FailureClass.INTERNAL, "tool_context_unavailable", text)
        return self.on_dispatch

    async def completion_key(self) -> AwaitEventKey:
        """The key of this call; raises `ToolFault` where there is none to be had."""
        if self.on_completion_key is None:
            raise ToolFault(FailureClass.INTERNAL, "tool_completion_key_missing_call_id", "this call has no key")
        return await self.on_completion_key()

    async def direct_completion(self, request: DirectRequest) -> DirectLlmCompletion:
        """See `ToolContext`; raises `ToolFault` (`tool_context_unavailable`) where there is no session."""
        if self.on_direct_completion is None:
            raise _without_session("completions")
        return await self.on_direct_completion(request)

    async def put_attachment(self, source: AttachmentSource) -> AttachmentSource:
        """See `ToolContext`; raises `ToolFault` (`tool_context_unavailable`) where there is no session."""
        if self.on_attachment is None:
            raise _without_session("attachments")
        return await self.on_attachment(source)

    def progress(self, text: str) -> None:
        """Hand `text` to the sink, if there is one; never part of the result."""
        if self.on_progress is not None and text:
            self.on_progress(text)


def _without_session(what: str) -> ToolFault:
    text = f"this call has no {what}: it is made outside of a session"
    return ToolFault(FailureClass.INTERNAL, "tool_context_unavailable", text)
