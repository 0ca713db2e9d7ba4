"""What `--attach PATH|URL|-` adds to a submission (contract 08 §5.1, 06 §7).

Files and stdin are read here, before anything is written, and what they are is
told by their bytes. An address is passed on as it is: the provider fetches it,
this machine never does.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from lash_cli.cli.stdin import STDIN_MARK, read_stdin_bytes
from lash_cli.core.attachments import MAX_ATTACHMENT_BYTES, AttachmentPolicy
from lash_cli.core.content import AttachmentItem, ExternalUrl, Inline
from lash_cli.core.media import media_type_of, media_type_of_path
from lash_cli.errors import UsageError
from lash_cli.paths import path_text

MAX_TOTAL_BYTES = 32 * 1024 * 1024
SCHEMES = ("http://", "https://")
KINDS_HINT = "there are images (png, jpeg, gif, webp, heic), pdf, office documents, audio, video and UTF-8 text"


def read_attachments(references: Sequence[str]) -> tuple[AttachmentItem, ...]:
    """The items of `--attach` options, in order.

    Raises `UsageError`: `attachment_unreadable`, `attachment_empty`,
    `attachment_too_large`, `attachment_type_unknown`, or
    `attachment_source_policy_denied` for an address.
    """
    items = tuple(AttachmentItem(_source(reference)) for reference in references)
    total = sum(len(item.attachment.data) for item in items if isinstance(item.attachment, Inline))
    if total > MAX_TOTAL_BYTES:
        raise _too_large("the attachments together are", MAX_TOTAL_BYTES)
    return items


def _source(reference: str) -> Inline | ExternalUrl:
    if reference == STDIN_MARK:
        return _inline(read_stdin_bytes(MAX_ATTACHMENT_BYTES, _too_large), "stdin", label="stdin")
    if reference.lower().startswith(SCHEMES):
        return _address(reference)
    return _inline(_file(reference), reference, label=path_text(os.path.basename(reference)))


def _address(url: str) -> ExternalUrl:
    from urllib.parse import urlsplit

    media_type = media_type_of_path(urlsplit(url).path)
    if media_type is None:
        raise UsageError(
            "the address of an attachment does not tell what it is",
            code="attachment_type_unknown",
            hint="name one whose path ends in .png, .jpg, .pdf or the like, or download it and attach the file",
        )
    source = ExternalUrl(media_type, url)
    AttachmentPolicy().check(source)
    return source


def _inline(data: bytes, name: str, *, label: str) -> Inline:
    if not data:
        raise UsageError(f"the attachment {name} is empty; nothing was sent", code="attachment_empty")
    media_type = media_type_of(data, name)
    if media_type is None:
        raise UsageError(
            f"cannot tell what kind of file {name} is; nothing was sent",
            code="attachment_type_unknown",
            hint=KINDS_HINT,
        )
    return Inline(media_type, data, label)


def _file(path: str) -> bytes:
    try:
        # Not blocking: a pipe nobody writes to would hold the command up before it is known to be none of ours.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path} is not a file; nothing was sent", code="attachment_unreadable")
            if status.st_size > MAX_ATTACHMENT_BYTES:
                raise _too_large(f"{path} is", MAX_ATTACHMENT_BYTES)
            data = file.read(MAX_ATTACHMENT_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"cannot read the attachment {path}: {error.strerror}; nothing was sent", code="attachment_unreadable"
        ) from error
    except ValueError as error:  # a path with a NUL
        raise UsageError(f"cannot read the attachment {path!r}: {error}", code="attachment_unreadable") from error
    if len(data) > MAX_ATTACHMENT_BYTES:
        raise _too_large(f"{path} is", MAX_ATTACHMENT_BYTES)
    return data


def _too_large(what: str, limit_bytes: int) -> UsageError:
    return UsageError(
        f"{what} larger than {limit_bytes // (1024 * 1024)} MiB; nothing was sent",
        code="attachment_too_large",
        details={"limit_bytes": limit_bytes},
    )
