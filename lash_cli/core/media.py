"""What some bytes are, told by the bytes themselves (contract 08 §6.3, 06 §7).

Content decides; a name only tells apart what looks the same from inside: kinds
of text, and documents that are archives. Pure and small on purpose: the few
kinds that providers take.
"""

from __future__ import annotations

from typing import Final

_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mpeg"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"\x1aE\xdf\xa3", "video/webm"),
)
_RIFF: Final = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
_BRANDS: Final = {
    b"heic": "image/heic", b"heix": "image/heic", b"mif1": "image/heif", b"msf1": "image/heif",
    b"avif": "image/avif", b"M4A ": "audio/mp4", b"qt  ": "video/quicktime",
}  # fmt: skip
_ARCHIVE, _COMPOUND = b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OFFICE: Final = "application/vnd.openxmlformats-officedocument."
_BY_ENDING: Final = {
    _ARCHIVE: {
        "docx": _OFFICE + "wordprocessingml.document",
        "xlsx": _OFFICE + "spreadsheetml.sheet",
        "pptx": _OFFICE + "presentationml.presentation",
    },
    _COMPOUND: {
        "doc": "application/msword",
        "xls": "application/vnd.ms-excel",
        "ppt": "application/vnd.ms-powerpoint",
    },
}
_TEXT_BY_ENDING: Final = {
    "json": "application/json", "csv": "text/csv", "htm": "text/html", "html": "text/html",
    "md": "text/markdown", "markdown": "text/markdown",
}  # fmt: skip
_URL_BY_ENDING: Final = {
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp",
    "heic": "image/heic", "heif": "image/heif", "pdf": "application/pdf", "txt": "text/plain",
    "mp3": "audio/mpeg", "wav": "audio/wav", "mp4": "video/mp4",
    **_BY_ENDING[_ARCHIVE], **_BY_ENDING[_COMPOUND], **_TEXT_BY_ENDING,
}  # fmt: skip

TEXT: Final = "text/plain"


def media_type_of(data: bytes, name: str = "") -> str | None:
    """The media type of `data`; None for bytes that are neither a known kind nor UTF-8 text."""
    for signature, media_type in _SIGNATURES:
        if data.startswith(signature):
            return media_type
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12])
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "video/mp4")
    if len(data) > 2 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2:
        return "audio/mpeg"
    for signature, endings in _BY_ENDING.items():
        if data.startswith(signature):
            return endings.get(_ending(name))
    return _TEXT_BY_ENDING.get(_ending(name), TEXT) if _is_text(data) else None


def media_type_of_path(path: str) -> str | None:
    """The media type the ending of a URL's path promises; None when it promises nothing."""
    return _URL_BY_ENDING.get(_ending(path))


def is_text(media_type: str) -> bool:
    """Whether every provider can be sent such content as words."""
    return media_type.startswith("text/") or media_type == "application/json"


def _is_text(data: bytes) -> bool:
    if b"\0" in data:
        return False
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _ending(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[2].lower() if "." in name else ""
