"""How the bytes of stored attachments reach a wire, and what each wire carries (contract 06 §7).

Encoders are pure and keep what they have written, so bytes are asked for only
when a message is written for the first time: the encoder meets an attachment
that is not at hand, the provider reads it under the session of the request and
the encoder begins again, its finished messages being kept. What a wire cannot
carry is refused before anything is read or sent.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, NoReturn, Protocol

from lash_cli.core.content import AttachmentPart, AttachmentSource, ExternalUrl, Message, ProviderFile, Stored
from lash_cli.core.llm import LlmRequest, MessageSequence
from lash_cli.core.media import is_text
from lash_cli.errors import LashError, LlmTransportError

#: Reads the bytes of a stored attachment, or says that they are needed first.
AttachmentBytes = Callable[[Stored], bytes]

NOT_RESOLVED = "stored_attachment_not_resolved"
UNSUPPORTED = "unsupported_attachment_capability"

IMAGES = ("image/gif", "image/jpeg", "image/png", "image/webp")
_OFFICE = "application/vnd.openxmlformats-officedocument."

#: The kinds of file that OpenAI takes, and the ending that names one without a name.
OPENAI_FILES = {
    "application/pdf": "pdf",
    "application/json": "json",
    "application/msword": "doc",
    _OFFICE + "wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    _OFFICE + "spreadsheetml.sheet": "xlsx",
    "application/vnd.ms-powerpoint": "ppt",
    _OFFICE + "presentationml.presentation": "pptx",
    "text/csv": "csv",
    "text/html": "html",
    "text/markdown": "md",
    "text/plain": "txt",
}


class Carried(NamedTuple):
    """What one wire carries, as bytes and by its address. A media type of bytes that ends in `/` stands for its whole
    family."""

    images: tuple[str, ...] = IMAGES
    files: tuple[str, ...] = ()
    by_address: tuple[str, ...] = ()
    provider_files: bool = False

    def takes(self, media_type: str) -> bool:
        """Whether bytes of `media_type` can be sent."""
        known = (*self.images, *self.files)
        return media_type in known or any(media_type.startswith(kind) for kind in known if kind.endswith("/"))


#: By kind of provider. Text is no file here: every wire carries it as words.
CARRIED: dict[str, Carried] = {
    "openai_responses": Carried(
        files=tuple(OPENAI_FILES),
        by_address=(*IMAGES, *OPENAI_FILES),
        provider_files=True,
    ),
    # Contract 06 §7 has no files here; OpenAI and OpenRouter have taken PDF since, and who does not says so.
    "openai_chat": Carried(files=("application/pdf",), by_address=IMAGES),
    "anthropic": Carried(files=("application/pdf",), by_address=(*IMAGES, "application/pdf"), provider_files=True),
    "google": Carried(
        images=("image/jpeg", "image/png", "image/webp", "image/heic", "image/heif"),
        files=("application/pdf", "audio/", "video/", "text/"),
        provider_files=True,
    ),
}


def refuse_attachment(refusal: str) -> NoReturn:
    """Raise the `LlmTransportError` (unsupported) of an attachment that a wire cannot carry."""
    raise LlmTransportError(refusal, kind="unsupported", code=UNSUPPORTED)


def carrying_refusal(
    source: AttachmentSource, carried: Carried, *, provider: str = "", credential_scope: str = ""
) -> str | None:
    """Why the wire does not carry `source`; None when it does.

    A file of a provider goes only to that provider, under the credential scope
    it was uploaded in. Text that is at hand is always carried, as words.
    """
    match source:
        case ProviderFile():
            is_ours = (source.provider, source.credential_scope) == (provider, credential_scope)
            if not carried.provider_files or not is_ours:
                owner = f"{source.provider} ({source.credential_scope})"
                return f"this provider cannot be sent the file {source.id} of {owner}"
        case ExternalUrl(media_type=media_type):
            if media_type not in carried.by_address:
                return f"this provider cannot be sent {media_type} attachments by address"
        case _:
            if not carried.takes(source.media_type) and not is_text(source.media_type):
                return f"this provider cannot be sent {source.media_type} attachments"
    return None


def check_own(request: LlmRequest, kind: str, credential_scope: str) -> None:
    """Raise `LlmTransportError` (`unsupported_attachment_capability`) for what the turn itself attaches and the wire
    of `kind` does not carry.

    What is committed already is not refused: a session that goes on with
    another provider could never run again. Encoders write `stand_in` there.
    """
    carried = CARRIED.get(kind)
    if carried is None:
        return
    for source in _attached(_own_messages(request)):
        refusal = carrying_refusal(source, carried, provider=kind, credential_scope=credential_scope)
        if refusal is not None:
            refuse_attachment(refusal)


def stand_in(source: AttachmentSource) -> str:
    """What a model is told in place of an earlier attachment that its wire does not carry."""
    match source:
        case ProviderFile(provider=provider, id=identity):
            what = f"the file {identity} of {provider}"
        case ExternalUrl(url=url, media_type=media_type):
            what = f"{url} ({media_type})"
        case _:
            what = f"{source.label or 'an attachment'} ({source.media_type})"
    return f"[{what}: it cannot be shown to this model]"


def _own_messages(request: LlmRequest) -> Sequence[Message]:
    """The messages of the turn; all of a request that belongs to none."""
    messages = request.messages
    return messages.tail if isinstance(messages, MessageSequence) else messages


def _attached(messages: Iterable[Message]) -> Iterator[AttachmentSource]:
    return (part.attachment for message in messages for part in message.parts if isinstance(part, AttachmentPart))


#: Held while a request is written: in one thread of the process at a time, which is as fast.
_writing = threading.Lock()


def _write_anew() -> None:
    """In the child of a fork nobody writes, whatever a thread of the parent was doing."""
    global _writing
    _writing = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_write_anew)


class StoredAttachmentNeeded(LlmTransportError):
    """An encoder needs bytes that were not read yet; left unanswered it is the failure of the request."""

    def __init__(self, source: Stored) -> None:
        super().__init__(
            f"the attachment {source.label or source.attachment_ref} was not read", kind="validation", code=NOT_RESOLVED
        )
        self.source = source


def unread(source: Stored) -> bytes:
    """The bytes of `source` where none are at hand; raises `StoredAttachmentNeeded`."""
    raise StoredAttachmentNeeded(source)


class Encoder(Protocol):
    """What writes a request: a wire."""

    def body(self, request: LlmRequest) -> bytes:
        """The request body."""
        ...


class RequestAttachments:
    """The bytes at hand while one request is written; its `bytes_of` is what encoders are built with.

    Writing never suspends, so one of these serves all requests of a provider. It is where requests are written, one
    after another whatever the loop they come from: what encoders keep of conversations is theirs alone meanwhile.
    """

    def __init__(self) -> None:
        self._at_hand: dict[str, bytes] = {}

    def bytes_of(self, source: Stored) -> bytes:
        """The bytes of `source`; raises `StoredAttachmentNeeded`."""
        data = self._at_hand.get(source.attachment_ref)
        return unread(source) if data is None else data

    async def body(self, wire: Encoder, request: LlmRequest) -> bytes:
        """The request body, with every stored attachment it needs read from the session of the request.

        Raises `LlmTransportError` as the wire does, and with the code
        `stored_attachment_not_resolved` for bytes that cannot be read.
        """
        read: dict[str, bytes] = {}
        while True:
            try:
                return self._written(wire, request, read)
            except StoredAttachmentNeeded as needed:
                if request.fetch is None:
                    raise
                for source in (needed.source, *_stored_in_tail(request)):
                    if source.attachment_ref not in read:
                        read[source.attachment_ref] = await _read(request, source)

    def _written(self, wire: Encoder, request: LlmRequest, read: dict[str, bytes]) -> bytes:
        """The request body by what was read; raises what the wire raises."""
        with _writing:
            self._at_hand = read
            try:
                return wire.body(request)
            finally:
                self._at_hand = {}


def _stored_in_tail(request: LlmRequest) -> list[Stored]:
    """The stored attachments of the turn's own messages, which are written together."""
    if not isinstance(request.messages, MessageSequence):
        return []
    return [source for source in _attached(request.messages.tail) if isinstance(source, Stored)]


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
