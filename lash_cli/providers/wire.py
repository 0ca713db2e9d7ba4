"""The seam between the shell of every HTTP call and what one provider's interface looks like (contract 06 §5, §9).

A `Wire` says where a request goes and how it is written, an `Assembler` reads
one answer. Neither opens anything and neither waits: `endpoint` does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Literal, Protocol, TypeVar

from lash_cli.core.llm import GenerationReceipt, LlmRequest, LlmResponse, StreamEvent
from lash_cli.providers.access import Access

Termination = Literal["require", "tolerate_eof"]


class Assembler(Protocol):
    """Collects the JSON documents of one answer, in wire order; a whole answer is one document."""

    @property
    def is_proved(self) -> bool:
        """Whether the provider said that its answer is complete."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether nothing that counts can follow, so that reading may stop before the connection ends."""
        ...

    @property
    def is_empty(self) -> bool:
        """Whether there is no text, no reasoning and no call."""
        ...

    def feed(self, document: dict[str, Any]) -> list[StreamEvent]:
        """Take one document and return what it shows."""
        ...

    def response(self) -> LlmResponse:
        """The complete answer. Unproved, it is what a tolerated end of the stream makes of it."""
        ...

    def partial(self) -> LlmResponse:
        """What arrived of an answer that was not proved; evidence only, its calls are never run."""
        ...


class Wire(Protocol):
    """What one provider's HTTP interface looks like. Implementations hold no state of a call."""

    kind: str
    #: What an answer is called in an error message, e.g. `a chat completion`.
    answer_name: str
    #: The code of an answer that ended before its proof (contract 06 §5).
    unproved_code: str
    default_termination: Termination

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that no text may hold: keys and whatever they were written into."""
        ...

    def url(self, request: LlmRequest) -> str:
        """Where the request goes, without a key in it."""
        ...

    def headers(self, request: LlmRequest) -> Mapping[str, str]:
        """Headers of this wire, lower case, with its authentication."""
        ...

    def body(self, request: LlmRequest) -> bytes:
        """The request body. Raises `LlmTransportError` (validation or unsupported) for what the wire cannot carry."""
        ...

    def generation_receipt(self, request: LlmRequest) -> GenerationReceipt | None:
        """What becomes of the request's generation intent in its body; None when it has none (contract 06 §4)."""
        ...

    def assembler(self, request: LlmRequest, provider_request_id: str | None) -> Assembler:
        """A reader for one answer to `request`."""
        ...

    def failure_in(self, document: dict[str, Any]) -> Any:
        """The error a document of the stream carries (an object or a text), or None."""
        ...


class RequestEncoder(Protocol):
    """What writes the requests of one wire."""

    def body(self, request: LlmRequest) -> bytes:
        """See `Wire.body`."""
        ...

    def generation_receipt(self, request: LlmRequest) -> GenerationReceipt | None:
        """See `Wire.generation_receipt`."""
        ...


Encoder = TypeVar("Encoder", bound=RequestEncoder)


class EncodedWire(Generic[Encoder]):
    """What all wires have in common: an address behind a key, and an encoder."""

    def __init__(self, access: Access, encoder: Encoder) -> None:
        self._access = access
        self._encoder = encoder

    @property
    def secrets(self) -> tuple[str, ...]:
        """See `Wire.secrets`."""
        return self._access.secrets

    def body(self, request: LlmRequest) -> bytes:
        """See `Wire.body`."""
        return self._encoder.body(request)

    def generation_receipt(self, request: LlmRequest) -> GenerationReceipt | None:
        """See `Wire.generation_receipt`."""
        return self._encoder.generation_receipt(request)
