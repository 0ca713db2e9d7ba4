"""What a provider or a tool said itself, fit to be kept: no credentials, and bounded (contract 01 §7, 06 §3.3).

Pure. Secrets that are known are masked by their value, others by their shape
and by the name they stand under. What is masked first and cut second leaves no
half of a secret.
"""

from __future__ import annotations

import re

MIN_SECRET_CHARS = 4
MAX_RAW_CHARS = 4096
# More of what was said is not even looked at.
_READ_CHARS = 16 * MAX_RAW_CHARS
_REDACTED = "[redacted]"
_BEARER = re.compile(
    r"""(?i)\b(bearer|x-goog-api-key:?|x-api-key:?|api[-_]?key["']?\s*[=:]|[?&]key=)["'\s]*[^\s"',;&]+"""
)
_KEY_SHAPED = re.compile(r"\b(?:(?:sk|pk|gsk|xai)-[A-Za-z0-9_*.-]{6,}|AIza[A-Za-z0-9_-]{20,})")
# A text under a name of credentials, in JSON: the whole of it is masked, whatever it looks like.
_MEMBER = re.compile(
    r"""(?isx) ( "[^"\\]{0,64} (?: authorization | cookie | api[-_]?key | token | secret | passw(?:or)?d | credential )
    [^"\\]{0,64} " \s*:\s* ) "(?: [^"\\] | \\. )* (?: " | \\?\Z )"""
)


def redact(text: str, secrets: tuple[str, ...] = ()) -> str:
    """`text` without any of `secrets` and without anything shaped like a credential."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= MIN_SECRET_CHARS:
            text = text.replace(secret, _REDACTED)
    text = _BEARER.sub(lambda match: f"{match[1]} {_REDACTED}", text)
    return _KEY_SHAPED.sub(_REDACTED, text)


def kept_raw(text: str | None, message: str, secrets: tuple[str, ...] = ()) -> str | None:
    """What an issue that says `message` keeps of `text` beside it: at most `MAX_RAW_CHARS` without credentials; None
    where that says no more."""
    if text is None:
        return None
    clean = redact(_MEMBER.sub(rf'\1"{_REDACTED}"', text[:_READ_CHARS]), secrets).strip()
    if clean in message:
        return None
    return clean if len(clean) <= MAX_RAW_CHARS else clean[: MAX_RAW_CHARS - 1] + "…"
