"""Wire scripts: one recorded or documented exchange with a provider (contract 06 §16).

A script is a JSON file of the schema `lash.provider-wire-script.v1`: the request
it answers, what goes over the wire and when, and what the provider must make of
it. Unknown fields are refused, so that a misspelt expectation never passes for
a met one. `wire_matching` compares requests, `wire_player` plays scripts.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from lash_cli.core.codec import Record, decode, encode
from lash_cli.core.llm import ExecutionEvidence, LlmResponse, ProtocolPosition
from lash_cli.core.usage import TokenUsage

SCHEMA: Literal["lash.provider-wire-script.v1"] = "lash.provider-wire-script.v1"


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
#: What carries bytes of a body, and what ends an exchange.
Payload = Body | Chunk | Sse
Last = End | Disconnect | TimedOut | HttpError | TransportError


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
            if isinstance(earlier, Last):
                raise ValueError("the timeline goes on after its end")
        if not isinstance(self.timeline[-1], Last):
            raise ValueError("the timeline has no end")
        starts = [i for i, event in enumerate(self.timeline) if isinstance(event, ResponseStart)]
        needs_start = any(isinstance(event, Payload | End) for event in self.timeline)
        if starts not in ([], [0]) or (needs_start and not starts):
            raise ValueError("a body needs one response_start before it")
        if starts and isinstance(self.timeline[-1], HttpError | TransportError):
            raise ValueError("a refused request has no response_start")

    @property
    def body(self) -> bytes:
        """All body bytes in one."""
        return b"".join(event.payload() for event in self.timeline if isinstance(event, Payload | HttpError))


def load_script(path: Path) -> WireScript:
    """The script in `path`; raises `ValueError` that names the file."""
    try:
        return decode(path.read_bytes(), WireScript)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from error
