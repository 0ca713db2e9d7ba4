"""What a user submits, as it crosses a wire (contract 04 §6.3).

Text and attachments; bytes travel as base64. A media type is checked by its
syntax, a reference by what it must have; whether the bytes are there is for
the side that has the store.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from lash_cli.core.content import (
    AttachmentItem,
    AttachmentSource,
    ExternalUrl,
    Inline,
    ProtocolTurnOptions,
    ProviderFile,
    Stored,
    TextItem,
    TurnInput,
)
from lash_cli.core.remote import REMOTE_PROTOCOL_VERSION, RemoteEnvelope
from lash_cli.errors import InvalidAttachmentData, InvalidAttachmentRef, MissingRequiredField

_MEDIA_TYPE: Final = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(;.*)?\Z", re.ASCII)


class RemotePart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what stands inside an envelope."""


class RemoteInline(RemotePart, frozen=True, kw_only=True, tag="inline", tag_field="source"):
    """Bytes as base64."""

    media_type: str
    data_base64: str


class RemoteAttachmentRef(RemotePart, frozen=True, kw_only=True):
    """Bytes that the receiving side has."""

    id: str
    media_type: str
    byte_len: int
    label: str | None = None


class RemoteStored(RemotePart, frozen=True, kw_only=True, tag="stored", tag_field="source"):
    """A reference into the attachment store of the receiving side."""

    attachment_ref: RemoteAttachmentRef


class RemoteExternalUrl(RemotePart, frozen=True, kw_only=True, tag="external_url", tag_field="source"):
    """Bytes that the provider fetches."""

    media_type: str
    url: str


class RemoteProviderScope(RemotePart, frozen=True, kw_only=True):
    """Where a provider keeps a file."""

    provider: str
    credential_scope: str


class RemoteProviderFile(RemotePart, frozen=True, kw_only=True, tag="provider_file", tag_field="source"):
    """A file that a provider has."""

    provider_scope: RemoteProviderScope
    id: str


RemoteAttachmentSource = RemoteInline | RemoteStored | RemoteExternalUrl | RemoteProviderFile


class RemoteTextItem(RemotePart, frozen=True, kw_only=True, tag="text", tag_field="type"):
    """Text; `label` names where it came from."""

    text: str
    label: str | None = None


class RemoteAttachmentItem(RemotePart, frozen=True, kw_only=True, tag="attachment", tag_field="type"):
    """An attachment."""

    source: RemoteAttachmentSource


class RemoteProtocolTurnOptions(RemotePart, frozen=True, kw_only=True):
    """Options that the turn protocol owns."""

    payload: dict[str, Any] = {}


class RemoteTurnInput(RemoteEnvelope, frozen=True, kw_only=True):
    """What a user submits (contract 04 §6.3)."""

    items: tuple[RemoteTextItem | RemoteAttachmentItem, ...]
    protocol_turn_options: RemoteProtocolTurnOptions | None = None
    trace_turn_id: str | None = None

    def _validate_fields(self) -> None:
        for place, item in enumerate(self.items):
            if isinstance(item, RemoteAttachmentItem):
                _check_source(item.source, str(place))

    @classmethod
    def of(cls, turn_input: TurnInput) -> RemoteTurnInput:
        """The envelope of an input."""
        options = turn_input.protocol_turn_options
        return cls(
            protocol_version=REMOTE_PROTOCOL_VERSION,
            items=tuple(
                RemoteTextItem(text=item.text, label=item.label)
                if isinstance(item, TextItem)
                else RemoteAttachmentItem(source=_remote_source(item.attachment))
                for item in turn_input.items
            ),
            protocol_turn_options=None if options is None else RemoteProtocolTurnOptions(payload=options.payload),
            trace_turn_id=turn_input.trace_turn_id,
        )

    def to_core(self) -> TurnInput:
        """The input. Raises as `validate`."""
        self.validate()
        options = self.protocol_turn_options
        return TurnInput(
            items=tuple(
                TextItem(item.text, item.label)
                if isinstance(item, RemoteTextItem)
                else AttachmentItem(_core_source(item.source))
                for item in self.items
            ),
            protocol_turn_options=None if options is None else ProtocolTurnOptions(payload=options.payload),
            trace_turn_id=self.trace_turn_id,
        )


def _remote_source(source: AttachmentSource) -> RemoteAttachmentSource:
    match source:
        case Inline(media_type=media_type, data=data):
            return RemoteInline(media_type=media_type, data_base64=base64.b64encode(data).decode())
        case Stored():
            reference = RemoteAttachmentRef(
                id=source.attachment_ref, media_type=source.media_type, byte_len=source.byte_len, label=source.label
            )
            return RemoteStored(attachment_ref=reference)
        case ExternalUrl(media_type=media_type, url=url):
            return RemoteExternalUrl(media_type=media_type, url=url)
        case ProviderFile():
            scope = RemoteProviderScope(provider=source.provider, credential_scope=source.credential_scope)
            return RemoteProviderFile(provider_scope=scope, id=source.id)


def _core_source(source: RemoteAttachmentSource) -> AttachmentSource:
    match source:
        case RemoteInline(media_type=media_type, data_base64=data):
            return Inline(media_type, base64.b64decode(data, validate=True))
        case RemoteStored(attachment_ref=ref):
            return Stored(ref.id, ref.media_type, ref.byte_len, ref.label)
        case RemoteExternalUrl(media_type=media_type, url=url):
            return ExternalUrl(media_type, url)
        case RemoteProviderFile(provider_scope=scope, id=file_id):
            return ProviderFile(scope.provider, scope.credential_scope, file_id)


def _check_source(source: RemoteAttachmentSource, place: str) -> None:
    match source:
        case RemoteInline(media_type=media_type, data_base64=data):
            _check_media_type(media_type, lambda message: InvalidAttachmentData(place, message))
            try:
                base64.b64decode(data, validate=True)
            except (binascii.Error, ValueError) as error:
                raise InvalidAttachmentData(place, f"not base64: {error}") from error
        case RemoteStored(attachment_ref=ref):
            if not ref.id.strip() or ref.byte_len < 0:
                raise InvalidAttachmentRef(ref.id or place, "a reference has an id and a length")
            _check_media_type(ref.media_type, lambda message: InvalidAttachmentRef(ref.id, message))
        case RemoteExternalUrl(media_type=media_type, url=url):
            if not url.strip():
                raise MissingRequiredField("RemoteExternalUrl", "url")
            _check_media_type(media_type, lambda message: InvalidAttachmentRef(place, message))
        case RemoteProviderFile(provider_scope=scope, id=file_id):
            for field, text in (("id", file_id), ("provider", scope.provider)):
                if not text.strip():
                    raise MissingRequiredField("RemoteProviderFile", field)


def _check_media_type(text: str, error: Callable[[str], Exception]) -> None:
    if not _MEDIA_TYPE.match(text):
        raise error(f"{text!r} is not a media type")
