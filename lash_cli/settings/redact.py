"""The redactor: keys and credentials never leave through a message, a log or a listing (contract 08 §6.8).

It knows the usual shapes of keys, PEM blocks and credentials inside URLs, and
every key value this process has loaded. Transcripts are not its business: they
stay verbatim, so that a resumed session is the one that was left.
"""

from __future__ import annotations

import re

MASK = "[redacted]"
_MINIMUM_SECRET_LENGTH = 6  # shorter values would mask ordinary words

_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:sk|rk|pk)-[A-Za-z0-9_-]{8,}"
    r"|\bAIza[A-Za-z0-9_-]{20,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    r"|\bAKIA[A-Z0-9]{16}\b"
    r"|\b(?:gsk|xai|hf)[_-][A-Za-z0-9]{16,}",
    re.DOTALL,
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}")
_URL_CREDENTIALS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@]+@", re.IGNORECASE)

_known: set[str] = set()


def remember(secret: str) -> None:
    """From now on `secret` is masked wherever it appears."""
    if len(secret) >= _MINIMUM_SECRET_LENGTH:
        _known.add(secret)


def redact(text: str) -> str:
    """`text` without keys, private keys, bearer tokens and credentials in URLs."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _SHAPES.sub(MASK, text)
    text = _BEARER.sub(rf"\1{MASK}", text)
    return _URL_CREDENTIALS.sub(rf"\1{MASK}@", text)
