"""How the bytes of stored attachments reach a wire, and what each wire carries (contract 06 §7).

Encoders are pure and keep what they have written, so bytes are asked for only
when a message is written for the first time: the encoder meets an attachment
that is not at hand, the provider reads it under the session of the request and
the encoder begins again, its finished messages being kept. What a wire cannot
carry is refused before anything is read or sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, NoReturn, Protocol

from lash_cli.core.content import AttachmentPart, AttachmentSource, ExternalUrl, ProviderFile, Stored
from lash_cli.core.llm import LlmRequest, MessageSequence
from lash_cli.core.media import is_text
from lash_cli.errors import LashError, LlmTransportError

#: Reads the bytes of a stored attachment, or says that they are needed first.
AttachmentBytes = Callable[[Stored], bytes]

NOT_RESOLVED = "stored_attachment_not_resolved"
UNSUPPORTED = "unsupported_attachment_capability"

IMAGES = ("image/gif", "image/jpeg", "image/png", "image/webp")
_OFFICE = "application/vnd.openxmlformats-officedocument."


class Carried(NamedTuple):
    """What one wire carries. A media type that ends in `/` stands for its whole family."""

    images: tuple[str, ...] = IMAGES
    files: tuple[str, ...] = ()
    urls: bool = False
    provider_files: bool = False

    def takes(self, media_type: str) -> bool:
        """Whether bytes of `media_type` can be sent."""
        known = (*self.images, *self.files)
        return media_type in known or any(media_type.startswith(kind) for kind in known if kind.endswith("/"))


#: By kind of provider. Text is no file here: every wire carries it as words.
CARRIED: dict[str, Carried] = {
    "openai_responses": Carried(
        files=(
            "application/pdf",
            "application/json",
            "application/msword",
            _OFFICE + "wordprocessingml.document",
            "application/vnd.ms-excel",
            _OFFICE + "spreadsheetml.sheet",
            "application/vnd.ms-powerpoint",
            _OFFICE + "presentationml.presentation",
            "text/csv",
            "text/html",
            "text/markdown",
            "text/plain",
        ),
        urls=True,
        provider_files=True,
    ),
    # Contract 06 §7 has no files here; OpenAI and OpenRouter have taken PDF since, and who does not says so.
    "openai_chat": Carried(files=("application/pdf",), urls=True),
    "anthropic": Carried(files=("application/pdf",), urls=True, provider_files=True),
    "google": Carried(
        images=("image/jpeg", "image/png", "image/webp", "image/heic", "image/heif"),
        files=("application/pdf", "audio/", "video/", "text/"),
        provider_files=True,
    ),
}


def refuse_attachment(what: str) -> NoReturn:
    """Raise the error of an attachment that a wire cannot carry."""
    raise LlmTransportError(f"this provider cannot be sent {what}", kind="unsupported", code=UNSUPPORTED)


def check_carried(
    source: AttachmentSource, carried: Carried, *, provider: str = "", credential_scope: str = ""
) -> None:
    """Raise `LlmTransportError` (`unsupported_attachment_capability`) unless the wire carries `source`.

    A file of a provider goes only to that provider, under the credential scope
    it was uploaded in. Text that is at hand is always carried, as words.
    """
    match source:
        case ProviderFile():
            if not carried.provider_files or (source.provider, source.credential_scope) != (provider, credential_scope):
                refuse_attachment(f"the file {source.id} of {source.provider} ({source.credential_scope})")
        case ExternalUrl(media_type=media_type):
            if not carried.urls or not carried.takes(media_type):
                refuse_attachment(f"{media_type} attachments by address")
        case _:
            if not carried.takes(source.media_type) and not is_text(source.media_type):
                refuse_attachment(f"{source.media_type} attachments")


class StoredAttachmentNeeded(LlmTransportError):
    """An encoder needs bytes that were not read yet; left unanswered it is the failure of the request."""

    def __init__(self, source: Stored) -> None:
        super().__init__(
            f"the attachment {source.label or source.attachment_ref} was not read", kind="validation", code=NOT_RESOLVED
        )
        self.source = source


class Encoder(Protocol):
    """What writes a request: a wire."""

    def body(self, request: LlmRequest) -> bytes:
        """The request body."""
        ...


class RequestAttachments:
    """The bytes at hand while one request is written; its `bytes_of` is what encoders are built with.

    Writing never suspends, so one of these serves all requests of a provider.
    """

    def __init__(self) -> None:
        self._at_hand: dict[str, bytes] = {}

    def bytes_of(self, source: Stored) -> bytes:
        """The bytes of `source`; raises `StoredAttachmentNeeded`."""
        data = self._at_hand.get(source.attachment_ref)
        if data is None:
            raise StoredAttachmentNeeded(source)
        return data

    async def body(self, wire: Encoder, request: LlmRequest) -> bytes:
        """The request body, with every stored attachment it needs read from the session of the request.

        Raises `LlmTransportError` as the wire does, and with the code
        `stored_attachment_not_resolved` for bytes that cannot be read.
        """
        read: dict[str, bytes] = {}
        while True:
            self._at_hand = read
            try:
                return wire.body(request)
            except StoredAttachmentNeeded as needed:
                if request.fetch is None:
                    raise
                for source in (needed.source, *_stored_in_tail(request)):
                    if source.attachment_ref not in read:
                        read[source.attachment_ref] = await _read(request, source)
            finally:
                self._at_hand = {}


def _stored_in_tail(request: LlmRequest) -> list[Stored]:
    """The stored attachments of the turn's own messages, which are written together."""
    if not isinstance(request.messages, MessageSequence):
        return []
    return [
        part.attachment
        for message in request.messages.tail
        for part in message.parts
        if isinstance(part, AttachmentPart) and isinstance(part.attachment, Stored)
    ]


async def _read(request: LlmRequest, source: Stored) -> bytes:
    assert request.fetch is not None
    try:
        return await request.fetch(source)
    except LashError as error:
        raise LlmTransportError(
            f"the attachment {source.label or source.attachment_ref} cannot be read: {error.message}",
            kind="validation",
            code=NOT_RESOLVED,
        ) from error
