"""Plays wire scripts in place of the network (contract 06 §16).

`WireScriptTransport` answers one request per script, in order; a request it
does not expect is an error that names the script and the field. `Schedule`
holds every event until the test releases it. What is recorded of a request is
its shape, never its text.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET
from support.wire_matching import json_of, lowered, mismatches, path_of, redacted_headers, shape
from support.wire_script import (
    Disconnect,
    End,
    HttpError,
    Payload,
    ResponseStart,
    TimedOut,
    TimelineEvent,
    TransportError,
    WireScript,
)

from lash_cli.core.protocols import Clock
from lash_cli.errors import LlmTransportError
from lash_cli.providers.http import HttpRequest, HttpResponse

WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Exchange:
    """What is kept of a request: headers without secrets, and the shape of the body."""

    script: str
    method: str
    url: str
    headers: Mapping[str, str]
    body_shape: Any


class Schedule:
    """Holds each event `(exchange, event)` of a player, both counted from 0, until it is released.

    A release may come before its event. Every wait is bounded and raises
    `TimeoutError`.
    """

    def __init__(self) -> None:
        self._released: set[tuple[int, int]] = set()
        self._blocked: set[tuple[int, int]] = set()
        self._changed = asyncio.Condition()

    async def release(self, exchange: int, event: int) -> None:
        """Let one event happen."""
        async with self._changed:
            self._released.add((exchange, event))
            self._changed.notify_all()

    async def wait_until_blocked(self, exchange: int, event: int) -> None:
        """Return once everything before the event has happened and it waits for its release."""
        await self._wait(lambda: (exchange, event) in self._blocked)

    async def pass_gate(self, exchange: int, event: int) -> None:
        """The player's side: wait for the release."""
        async with self._changed:
            self._blocked.add((exchange, event))
            self._changed.notify_all()
        await self._wait(lambda: (exchange, event) in self._released)
        self._blocked.discard((exchange, event))

    async def _wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS), self._changed:
            await self._changed.wait_for(condition)


class WireScriptTransport:
    """Plays one script per request, in order; implements `providers.http.HttpTransport`.

    `clock` makes events happen at their virtual time; without one they happen
    at once. `cuts` are positions at which the body is cut instead of where the
    script cuts it: `()` sends it whole.
    """

    def __init__(
        self,
        scripts: Iterable[WireScript],
        *,
        clock: Clock | None = None,
        schedule: Schedule | None = None,
        cuts: Sequence[int] | None = None,
    ) -> None:
        self._scripts = list(scripts)
        self._clock = clock
        self._schedule = schedule
        self._cuts = cuts
        self.exchanges: list[Exchange] = []

    def remaining_scripts(self) -> int:
        """How many scripts were not played; 0 at the end of a test."""
        return len(self._scripts) - len(self.exchanges)

    async def send(self, request: HttpRequest, *, start_timeout: float | None) -> HttpResponse:
        """Play the next script; raises `LlmTransportError` when there is none or the request is another one."""
        number = len(self.exchanges)
        if not self.remaining_scripts():
            raise LlmTransportError(
                f"no script is left for request {number + 1}", kind="transport", code="wire_script_exhausted"
            )
        script = self._scripts[number]
        for field, problem in mismatches(script, request):
            raise LlmTransportError(
                f"script {script.name!r}, field {field}: {problem}", kind="validation", code="wire_script_mismatch"
            )
        self.exchanges.append(_exchange(script, request))
        events = self._events(number, script)
        first = await anext(events)
        match first:
            case HttpError(status=status, headers=headers):
                return HttpResponse(status, lowered(headers), _once(first.payload()), _nothing)
            case ResponseStart(status=status, headers=headers):
                body = self._body(events) if self._cuts is None else self._recut(events, self._cuts)
                return HttpResponse(status, lowered(headers), body, _nothing)
            case _:
                raise _fault(first, "no_response")

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _events(self, number: int, script: WireScript) -> AsyncIterator[TimelineEvent]:
        clock = self._clock
        started = clock.monotonic() if clock else 0.0
        for index, event in enumerate(script.timeline):
            if clock and (wait := started + event.at / 1000 - clock.monotonic()) > 0:
                await clock.sleep(wait)
            if self._schedule is not None:
                await self._schedule.pass_gate(number, index)
            yield event

    async def _body(self, events: AsyncIterator[TimelineEvent]) -> AsyncIterator[bytes]:
        async for event in events:
            if isinstance(event, Payload):
                yield event.payload()
            elif not isinstance(event, End):
                raise _fault(event, "response_observed")

    async def _recut(self, events: AsyncIterator[TimelineEvent], cuts: Sequence[int]) -> AsyncIterator[bytes]:
        fault: LlmTransportError | None = None
        pieces: list[bytes] = []
        try:
            async for piece in self._body(events):
                pieces.append(piece)
        except LlmTransportError as error:
            fault = error
        body = b"".join(pieces)
        for start, end in itertools.pairwise([0, *sorted(cuts), len(body)]):
            if start < end:
                yield body[start:end]
        if fault is not None:
            raise fault


def _exchange(script: WireScript, request: HttpRequest) -> Exchange:
    body = json_of(request)
    body = None if body is UNSET else shape(body)
    return Exchange(script.name, request.method, path_of(request.url), redacted_headers(request.headers), body)


def _fault(event: TimelineEvent, position: str) -> LlmTransportError:
    match event:
        case Disconnect(message=message, retryable=retryable):
            kind, code = "transport", "read_error"
        case TransportError(message=message, retryable=retryable):
            kind, code = "transport", "connect_error"
        case TimedOut(message=message):
            kind, retryable = "timeout", True
            code = "response_start_timeout" if position == "no_response" else "read_timeout"
        case _:
            raise AssertionError(f"{event!r} is no fault")
    return LlmTransportError(message, kind=kind, code=code, retryable=retryable, protocol_position=position)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _nothing() -> None:
    return None
