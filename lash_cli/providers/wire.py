"""The seam between the shell of every HTTP call and what one provider's interface looks like (contract 06 §5, §9).

A `Wire` says where a request goes, its encoder how it is written, and an
`AnswerAssembler` reads one answer. None opens anything and none waits:
`endpoint` does that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from lash_cli.core.llm import GenerationReceipt, LlmRequest
from lash_cli.providers.access import Access
from lash_cli.providers.assembling import AnswerAssembler

Termination = Literal["require", "tolerate_eof"]


class RequestEncoder(Protocol):
    """What writes the requests of one wire."""

    def route(self, model: str) -> str:
        """Who can read again what is encrypted or signed in an answer of `model`."""
        ...

    def body(self, request: LlmRequest) -> bytes:
        """See `Wire.body`."""
        ...

    def generation_receipt(self, request: LlmRequest) -> GenerationReceipt | None:
        """See `Wire.generation_receipt`."""
        ...


Encoder = TypeVar("Encoder", bound=RequestEncoder)


class Wire(ABC, Generic[Encoder]):
    """What one provider's HTTP interface looks like: an address behind a key, an encoder, and an assembler for every
    answer. It holds no state of a call."""

    kind: ClassVar[str]
    #: What an answer is called in an error message, e.g. `a chat completion`.
    answer_name: ClassVar[str]
    #: The code of an answer that ended before its proof (contract 06 §5).
    unproved_code: ClassVar[str]
    default_termination: ClassVar[Termination] = "require"
    #: The paths that the wire adds to its address, the one of a call first; nobody configures them.
    paths: ClassVar[tuple[str, ...]]
    #: The header that carries the key unless the endpoint takes it in another; None for a bearer token.
    key_header: ClassVar[str | None] = None
    assembles: ClassVar[type[AnswerAssembler]]

    def __init__(self, access: Access, encoder: Encoder) -> None:
        self._access = access
        self._encoder = encoder

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that no text may hold: keys and whatever they were written into."""
        return self._access.secrets

    def url(self, request: LlmRequest) -> str:
        """Where the request goes, without a key in it."""
        return self._access.url(self.paths[0])

    def headers(self, request: LlmRequest) -> Mapping[str, str]:
        """The key, if there is one, what the wire adds, and the configured headers, which win; in lower case."""
        return {**self._access.authentication, **self._own_headers(request), **self._access.headers}

    def body(self, request: LlmRequest) -> bytes:
        """The request body. Raises `LlmTransportError` (validation or unsupported) for what the wire cannot carry."""
        return self._encoder.body(request)

    def generation_receipt(self, request: LlmRequest) -> GenerationReceipt | None:
        """What becomes of the request's generation intent in its body; None when it has none (contract 06 §4)."""
        return self._encoder.generation_receipt(request)

    def assembler(self, request: LlmRequest, provider_request_id: str | None) -> AnswerAssembler:
        """A reader for one answer to `request`."""
        return self.assembles(request.scope.request_id, self._encoder.route(request.model.id), provider_request_id)

    @abstractmethod
    def failure_in(self, document: dict[str, Any]) -> Any:
        """The error a document of the stream carries (an object or a text), or None."""

    def _own_headers(self, request: LlmRequest) -> Mapping[str, str]:
        return {}
