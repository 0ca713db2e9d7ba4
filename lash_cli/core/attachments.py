"""Which sources of attachments a host allows (contract 05 §1.5).

Asked wherever an attachment enters: with a user's input and in the result of a
tool. What a provider can carry is another question, asked by its wire.
"""

from __future__ import annotations

import re
from typing import Final

from lash_cli.core.codec import Record
from lash_cli.core.content import AttachmentItem, AttachmentSource, ExternalUrl, Inline, ProviderFile, TurnInput
from lash_cli.errors import UsageError

DENIED = "attachment_source_policy_denied"
MAX_ATTACHMENT_BYTES = 20 * 1024 * 1024
_TOKEN: Final = r"[A-Za-z0-9!#$&^_.+-]+"
_MEDIA_TYPE: Final = rf"{_TOKEN}/{_TOKEN}"


class AttachmentPolicy(Record):
    """The default allows bytes, stored ones, web addresses and files of providers; `max_bytes` limits one of them, and
    only text may be empty (contract 06 §7)."""

    allows_urls: bool = True
    url_schemes: tuple[str, ...] = ("https", "http")
    allows_provider_files: bool = True
    max_bytes: int = MAX_ATTACHMENT_BYTES

    def refusal(self, source: AttachmentSource) -> str | None:
        """Why `source` is not allowed; None when it is."""
        match source:
            case ExternalUrl(url=url):
                if not self.allows_urls:
                    return "attachments by address are not allowed here"
                from urllib.parse import urlsplit  # start-up never needs it

                parts = urlsplit(url)
                if parts.scheme not in self.url_schemes or not parts.hostname:
                    return f"an attachment's address begins with {' or '.join(self.url_schemes)}"
                return "an attachment's address must hold no password" if parts.password else None
            case ProviderFile() if not self.allows_provider_files:
                return "files of providers are not allowed here"
            case Inline(data=data) if len(data) > self.max_bytes:
                return f"an attachment of {len(data)} bytes is larger than {self.max_bytes}"
            case Inline(media_type=media_type, data=data) if not data:
                from lash_cli.core.media import is_text  # start-up never needs it

                # No provider takes it, and in the transcript it would stop every later turn too.
                return None if is_text(media_type) else f"an attachment of type {media_type} is empty"
        return None

    def check(self, source: AttachmentSource) -> None:
        """Raise `UsageError` (`attachment_source_policy_denied`) unless `source` is allowed."""
        refusal = self.refusal(source)
        if refusal is not None:
            raise UsageError(refusal, code=DENIED)


def require_media_type(media_type: str) -> None:
    """Raise `UsageError` (`attachment_media_type_invalid`) for what is no media type, such as a file's name."""
    if re.fullmatch(_MEDIA_TYPE, media_type) is None:
        raise UsageError(f"not a media type: {media_type!r}", code="attachment_media_type_invalid")


def has_bytes(turn_input: TurnInput) -> bool:
    """Whether an input carries attachment bytes itself, which must be stored before it is."""
    return any(isinstance(item, AttachmentItem) and isinstance(item.attachment, Inline) for item in turn_input.items)
