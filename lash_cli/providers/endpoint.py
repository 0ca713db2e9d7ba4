"""The shell every HTTP wire runs in: one attempt, from request bytes to a proved answer (contract 06 §5, §9).

What differs between providers is a `wire.Wire`. Everything else lives here and
in `answer_reader` once: timeouts, framing, errors inside a stream, the silent
end of a connection, whole JSON answers. Error texts never contain a secret
this provider was given.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from lash_cli.core.content import AttachmentSource
from lash_cli.core.llm import (
    DeliberateStop,
    EvidenceReported,
    ExecutionEvidence,
    LlmRequest,
    LlmResponse,
    ReasoningDelta,
    StreamEvent,
)
from lash_cli.core.protocols import Clock, EventSink
from lash_cli.core.redaction import kept_raw
from lash_cli.errors import LlmTransportError
from lash_cli.providers.answer_reader import AnswerReader, request_id_of
from lash_cli.providers.attachments import CARRIED, RequestAttachments, carrying_refusal, check_own
from lash_cli.providers.classify import classify_http, presentable, to_exception
from lash_cli.providers.http import HttpRequest, HttpResponse, HttpTransport, Timeouts

if TYPE_CHECKING:
    from lash_cli.providers.wire import Termination, Wire

MAX_ERROR_BODY_BYTES = 64 * 1024
ERROR_BODY_SECONDS = 10.0
#: The statuses of an answer. Some frameworks that gateways are written in say of every POST that it made something.
ANSWERED = (200, 201)


class HttpProvider:
    """One endpoint behind one wire; implements `core.protocols.Provider`."""

    def __init__(
        self,
        wire: Wire[Any],
        transport: HttpTransport,
        *,
        clock: Clock,
        timeouts: Timeouts | None = None,
        expose_thinking: bool = False,
        termination: Termination | None = None,
        attachments: RequestAttachments | None = None,
        credential_scope: str = "",
    ) -> None:
        """`attachments` is what the wire's encoder asks for bytes. `termination` is the endpoint's word on answers
        without proof; a model's own data wins over it. `credential_scope` names the credential whose uploaded files
        may be referred to."""
        self._wire = wire
        self._transport = transport
        self._clock = clock
        self._timeouts = timeouts or Timeouts()
        self._expose_thinking = expose_thinking
        self._attachments = attachments or RequestAttachments()
        self._credential_scope = credential_scope
        self._termination: Termination = termination or wire.default_termination

    @property
    def kind(self) -> str:
        """The stable id recorded with the session."""
        return self._wire.kind

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that no text may hold."""
        return self._wire.secrets

    async def complete(self, request: LlmRequest, sink: EventSink) -> LlmResponse:
        """Run one attempt; see `core.protocols.Provider.complete`."""
        response = await self._attempt(request, sink)
        receipt = self._wire.generation_receipt(request)
        return response if receipt is None else msgspec.structs.replace(response, generation=receipt)

    async def _attempt(self, request: LlmRequest, sink: EventSink) -> LlmResponse:
        """One attempt without its receipt."""
        wire = self._wire
        # First: what is refused is refused, and what it holds may have to be announced.
        check_own(request, self.kind, self._credential_scope)
        body = await self._attachments.body(wire, request)
        headers = {
            "accept": "text/event-stream, application/json",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": "lash",
            **wire.headers(request),
        }
        outgoing = HttpRequest("POST", wire.url(request), headers, body)
        termination = (request.model.capability and request.model.capability.stream_termination) or self._termination
        reader = AnswerReader(request, wire, termination, sink if self._expose_thinking else _quiet(sink))
        try:
            async with asyncio.timeout(self._timeouts.request) as limit:
                response = await self._transport.send(outgoing, start_timeout=self._timeouts.response_start)
                try:
                    if response.status not in ANSWERED:
                        limit.reschedule(None)  # its status is known, and the body has a limit of its own
                        raise await self._refusal(response)
                    return await reader.read(response)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            if not limit.expired():
                raise
            await reader.take_tail()
            if reader.is_proved:
                return reader.conclude()
            raise LlmTransportError(
                f"the call took longer than {self._timeouts.request:g} s (request_timeout_seconds of the provider)",
                kind="timeout",
                code="request_timeout",
                retryable=True,
                protocol_position=reader.position,
                partial=reader.partial(),
            ) from error
        except (asyncio.CancelledError, DeliberateStop):
            # Nothing is returned from here, and yet the attempt cost something: the ledger learns who served it.
            if reader.position != "no_response":
                await sink(EvidenceReported(reader.partial().evidence or ExecutionEvidence()))
            raise
        except LlmTransportError as error:
            error.args = (presentable(error.message, self.secrets),)
            error.message = error.args[0]
            raise

    def attachment_refusal(self, source: AttachmentSource) -> str | None:
        """See `core.protocols.JudgesAttachments`."""
        carried = CARRIED.get(self.kind)
        if carried is None:
            return None
        return carrying_refusal(source, carried, provider=self.kind, credential_scope=self._credential_scope)

    async def aclose(self) -> None:
        """Close the transport."""
        await self._transport.aclose()

    async def _refusal(self, response: HttpResponse) -> LlmTransportError:
        """The error of an answer that is not a 200; a body that cannot be read, or never ends, does not hide the
        status."""
        body = bytearray()
        with contextlib.suppress(TimeoutError, LlmTransportError):
            async with asyncio.timeout(ERROR_BODY_SECONDS):
                async for chunk in response.body:
                    body += chunk
                    if len(body) >= MAX_ERROR_BODY_BYTES:
                        break
        text = bytes(body[:MAX_ERROR_BODY_BYTES]).decode("utf-8", errors="replace")
        verdict = classify_http(
            response.status, response.headers, text, now_ms=self._clock.now_ms(), secrets=self.secrets
        )
        request_id = request_id_of(response.headers)
        named = LlmResponse(evidence=ExecutionEvidence(provider_request_id=request_id)) if request_id else None
        return to_exception(verdict, raw=kept_raw(text, verdict.message, self.secrets), partial=named)


def _quiet(sink: EventSink) -> EventSink:
    """`sink` without reasoning: it is kept in the response but not shown."""

    async def forward(event: StreamEvent) -> None:
        if not isinstance(event, ReasoningDelta):
            await sink(event)

    return forward
