"""Wire scripts: one recorded or documented exchange with a provider, and its player (contract 06 §16).

A script is a JSON file of the schema `lash.provider-wire-script.v1`: the request
it answers, what goes over the wire and when, and what the provider must make of
it. Unknown fields are refused, so that a misspelt expectation never passes for
a met one. `WireScriptTransport` plays scripts in order as an `HttpTransport`; a
request it does not expect is an error that names the script and the field.
`Schedule` holds every event until the test releases it. What is recorded of a
request is its shape, never its text.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, UnsetType

from lash_cli.core.codec import Record, decode, encode
from lash_cli.core.llm import ExecutionEvidence, LlmResponse, ProtocolPosition
from lash_cli.core.protocols import Clock
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import LlmTransportError
from lash_cli.providers.http import HttpRequest, HttpResponse

SCHEMA: Literal["lash.provider-wire-script.v1"] = "lash.provider-wire-script.v1"
WAIT_SECONDS = 30.0
REDACTED = "[redacted]"
_SECRET_HEADER = re.compile("auth|key|token|cookie|secret")


class BodyRule(Record):
    """What the value at one JSON pointer of the request body must be; every set member must hold."""

    present: bool | UnsetType = UNSET
    equals: Any = UNSET
    contains: Any = UNSET
    contains_role: str | UnsetType = UNSET
    min_len: int | UnsetType = UNSET


class HeaderRule(Record):
    """What one request header must be; every set member must hold."""

    present: bool | UnsetType = UNSET
    equals: str | UnsetType = UNSET
    contains: str | UnsetType = UNSET


class RequestMatch(Record):
    """The request a script answers: rules by JSON pointer and by lower-case header name."""

    body: dict[str, BodyRule] = {}
    headers: dict[str, HeaderRule] = {}

    def __post_init__(self) -> None:
        for pointer in self.body:
            if pointer and not pointer.startswith("/"):
                raise ValueError(f"{pointer!r} is not a JSON pointer")
        for name in self.headers:
            if name != name.lower():
                raise ValueError(f"header names are lower case, got {name!r}")


class Endpoint(Record):
    """Method and path, the path with its query, as the request line has them."""

    method: str
    path: str


class _Event(Record):
    """`at` is virtual time in milliseconds since the request."""

    at: int


class ResponseStart(_Event, tag="response_start", tag_field="type"):
    """The status line and the headers."""

    status: int
    headers: dict[str, str] = {}


class Body(_Event, tag="body", tag_field="type"):
    """Body bytes; a value that is no string is written as JSON."""

    data: Any

    def payload(self) -> bytes:
        """The bytes on the wire."""
        return self.data.encode() if isinstance(self.data, str) else encode(self.data)


class Chunk(_Event, tag="chunk", tag_field="type"):
    """Body bytes as text, or in base64 where a border falls into a character."""

    data: str | UnsetType = UNSET
    raw: bytes | UnsetType = msgspec.field(name="bytes", default=UNSET)

    def __post_init__(self) -> None:
        if isinstance(self.data, str) == isinstance(self.raw, bytes):
            raise ValueError("a chunk has either data or bytes")

    def payload(self) -> bytes:
        """The bytes on the wire."""
        return self.data.encode() if isinstance(self.data, str) else bytes(self.raw or b"")


class Sse(_Event, tag="sse", tag_field="type"):
    """One server-sent event; a value that is no string is written as JSON."""

    data: Any

    def payload(self) -> bytes:
        """The framed bytes on the wire."""
        text = self.data if isinstance(self.data, str) else encode(self.data).decode()
        return b"".join(b"data: %b\n" % line.encode() for line in text.split("\n")) + b"\n"


class End(_Event, tag="end", tag_field="type"):
    """The body ends properly."""


class Disconnect(_Event, tag="disconnect", tag_field="type"):
    """The connection breaks."""

    message: str = "the connection broke"
    retryable: bool = True


class TimedOut(_Event, tag="timeout", tag_field="type"):
    """Nothing more comes."""

    message: str = "the provider sent nothing for too long"


class HttpError(_Event, tag="http_error", tag_field="type"):
    """A whole answer that refuses the request; a body that is no string is written as JSON."""

    status: int
    headers: dict[str, str] = {}
    body: Any = ""

    def payload(self) -> bytes:
        """The bytes on the wire."""
        return self.body.encode() if isinstance(self.body, str) else encode(self.body)


class TransportError(_Event, tag="transport_error", tag_field="type"):
    """The request never reached the provider."""

    message: str
    retryable: bool = True


TimelineEvent = ResponseStart | Body | Chunk | Sse | End | Disconnect | TimedOut | HttpError | TransportError
_Payload = Body | Chunk | Sse
_Last = End | Disconnect | TimedOut | HttpError | TransportError


class ExpectedError(Record):
    """The failure an attempt ends with."""

    kind: str
    code: str
    retryable: bool
    status: int | None = None
    terminal_reason: str = "provider_error"
    retry_after_ms: int | None = None


class ExpectedProvider(Record):
    """What the provider makes of the script: a response, or an error with what it kept.

    `options` configure the provider. `whole` is the same answer as the provider
    sends it without streaming; it must give the same parts, usage and reason.
    `position`, `usage` and `evidence` are those of a failed attempt.
    """

    response: LlmResponse | None = None
    error: ExpectedError | None = None
    position: ProtocolPosition | None = None
    usage: TokenUsage = TokenUsage()
    evidence: ExecutionEvidence | None = None
    reasoning_shown: str | None = None
    options: dict[str, Any] = {}
    whole: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if (self.response is None) == (self.error is None):
            raise ValueError("expected_provider has either a response or an error")


class Provenance(Record):
    """Where the bytes come from; wording is never invented."""

    kind: Literal["captured_live", "provider_documentation", "real_world_report"]
    source: str
    captured_at: str | None = None
    notes: str | None = None


class WireScript(Record):
    """One exchange. Raises at decode for a timeline that cannot happen."""

    schema: Literal["lash.provider-wire-script.v1"]
    name: str
    provider_kind: str
    endpoint: Endpoint
    timeline: tuple[TimelineEvent, ...]
    provenance: Provenance
    request_match: RequestMatch = RequestMatch()
    expected_provider: ExpectedProvider | None = None

    def __post_init__(self) -> None:
        if not self.timeline:
            raise ValueError("the timeline is empty")
        for earlier, later in itertools.pairwise(self.timeline):
            if later.at < earlier.at:
                raise ValueError("time goes backwards in the timeline")
            if isinstance(earlier, _Last):
                raise ValueError("the timeline goes on after its end")
        if not isinstance(self.timeline[-1], _Last):
            raise ValueError("the timeline has no end")
        starts = [i for i, event in enumerate(self.timeline) if isinstance(event, ResponseStart)]
        needs_start = any(isinstance(event, _Payload | End) for event in self.timeline)
        if starts not in ([], [0]) or (needs_start and not starts):
            raise ValueError("a body needs one response_start before it")
        if starts and isinstance(self.timeline[-1], HttpError | TransportError):
            raise ValueError("a refused request has no response_start")

    @property
    def body(self) -> bytes:
        """All body bytes in one."""
        return b"".join(event.payload() for event in self.timeline if isinstance(event, _Payload | HttpError))


def load_script(path: Path) -> WireScript:
    """The script in `path`; raises `ValueError` that names the file."""
    try:
        return decode(path.read_bytes(), WireScript)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from error


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
                return HttpResponse(status, _lowered(headers), _once(first.payload()), _nothing)
            case ResponseStart(status=status, headers=headers):
                body = self._body(events) if self._cuts is None else self._recut(events, self._cuts)
                return HttpResponse(status, _lowered(headers), body, _nothing)
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
            if isinstance(event, _Payload):
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


def mismatches(script: WireScript, request: HttpRequest) -> Iterator[tuple[str, str]]:
    """Where `request` is not the one of `script`: field and problem; nothing when it fits."""
    if request.method != script.endpoint.method:
        yield "endpoint.method", f"expected {script.endpoint.method}, got {request.method}"
    path = _path(request.url)
    if path != script.endpoint.path:
        yield "endpoint.path", f"expected {script.endpoint.path}, got {path}"
    for name, header_rule in script.request_match.headers.items():
        problem = _header_problem(header_rule, request.headers.get(name, UNSET))
        if problem:
            yield f"request_match.headers.{name}", problem
    body = _json_of(request)
    if body is UNSET and script.request_match.body:
        yield "request_match.body", "is not JSON"
        return
    for pointer, rule in script.request_match.body.items():
        problem = _body_problem(rule, at_pointer(body, pointer))
        if problem:
            yield f"request_match.body.{pointer}", problem


def _json_of(request: HttpRequest) -> Any:
    """The decoded body of a request, `UNSET` when it is none."""
    try:
        return msgspec.json.decode(request.body)
    except msgspec.DecodeError:
        return UNSET


def at_pointer(document: Any, pointer: str) -> Any:
    """The value at a JSON pointer, `UNSET` where there is none."""
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict) and name in document:
            document = document[name]
        elif isinstance(document, list) and name.isdigit() and int(name) < len(document):
            document = document[int(name)]
        else:
            return UNSET
    return document


def shape(value: Any) -> Any:
    """`value` with its texts and numbers replaced by what kind they are and how long."""
    match value:
        case dict():
            return {name: shape(member) for name, member in value.items()}
        case list():
            return [shape(member) for member in value]
        case str():
            return f"string({len(value)})"
        case bool() | None:
            return value
        case _:
            return "number"


def redacted_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers, lower case, without the value of any that looks like a credential."""
    return {
        name: REDACTED if _SECRET_HEADER.search(name) else value for name, value in sorted(_lowered(headers).items())
    }


def _body_problem(rule: BodyRule, value: Any) -> str:
    if rule.present is not UNSET and rule.present != (value is not UNSET):
        return "must be present" if rule.present else "must be absent"
    checks = (rule.equals, rule.contains, rule.contains_role, rule.min_len)
    if value is UNSET:
        return "is absent" if any(check is not UNSET for check in checks) else ""
    if rule.equals is not UNSET and value != rule.equals:
        return f"must equal {rule.equals!r}, is {shape(value)}"
    if rule.contains is not UNSET and not _contains(value, rule.contains):
        return f"must contain {rule.contains!r}, is {shape(value)}"
    if rule.contains_role is not UNSET:
        roles = [member.get("role") for member in value if isinstance(member, dict)] if isinstance(value, list) else []
        if rule.contains_role not in roles:
            return f"must contain the role {rule.contains_role!r}, has {roles}"
    if rule.min_len is not UNSET and not (isinstance(value, str | list | dict) and len(value) >= rule.min_len):
        return f"must have at least {rule.min_len} members, is {shape(value)}"
    return ""


def _contains(value: Any, wanted: Any) -> bool:
    """A text contains another, a list a member, an object the members of another."""
    if isinstance(value, str):
        return isinstance(wanted, str) and wanted in value
    if isinstance(value, list):
        return wanted in value
    if isinstance(value, dict) and isinstance(wanted, dict):
        return wanted.items() <= value.items()
    return False


def _header_problem(rule: HeaderRule, value: str | UnsetType) -> str:
    if rule.present is not UNSET and rule.present != (value is not UNSET):
        return "must be present" if rule.present else "must be absent"
    if isinstance(rule.equals, str) and value != rule.equals:
        return "has another value"
    if isinstance(rule.contains, str) and not (isinstance(value, str) and rule.contains in value):
        return f"must contain {rule.contains!r}"
    return ""


def _exchange(script: WireScript, request: HttpRequest) -> Exchange:
    body = _json_of(request)
    body = None if body is UNSET else shape(body)
    return Exchange(script.name, request.method, _path(request.url), redacted_headers(request.headers), body)


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


def _path(url: str) -> str:
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _nothing() -> None:
    return None
