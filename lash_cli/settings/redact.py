"""The redactor: keys and credentials never leave through a message, a log or a listing (contract 08 §6.8).

It knows the usual shapes of keys, PEM blocks and credentials inside URLs, and
every key value this process has loaded. Transcripts are not its business: they
stay verbatim, so that a resumed session is the one that was left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

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
# What is found at rest may be taken out of what was said, so a word that only looks like a token must not match.
# What every one of the shapes below has in it; none of these characters is ever escaped in our JSON.
_HINTS = re.compile(
    r"[srp]k-|AIza|gh[pousr]_|github_pat_|xox[abprs]-|AKIA|gsk[_-]|xai[_-]|hf[_-]|PRIVATE KEY-----|://|(?i:bearer)"
)
# A key without an end goes as far as its lines do; in a text inside a text they are divided by an escape.
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"
    r"(?:(?:(?!-----BEGIN ).)*?-----END (?:[A-Z]+ )*PRIVATE KEY-----"
    r"|(?:(?:\r?\n|(?:\\r)?\\n)[A-Za-z0-9+/=]+(?=[\r\n\\\"]|\Z))+)",
    re.DOTALL,
)
_LONG_BEARER = re.compile(r"(?i)\bbearer\s+((?=[A-Za-z._~+/=-]*\d)[A-Za-z0-9._~+/=-]{16,})")
# Of the scheme only the end is looked at: to look for its beginning at each word takes hours where a text has many dots
_URL_PASSWORD = re.compile(r"(?<=[A-Za-z0-9+.-])://([^\s/@:\"'<>]*:[^\s/@\"'<>]+)@")
_URL_CREDENTIALS = re.compile(r"(?<=[A-Za-z0-9+.-])://[^\s/@]+@")

_HEADER_OF_CREDENTIALS = re.compile("auth|key|token|cookie|secret|sig", re.IGNORECASE)
# Elsewhere `token` and `key` are ordinary words: `max_tokens` is no secret.
_FIELD_OF_CREDENTIALS = re.compile(
    r"(?:^|[-_])(?:api[-_]?key|secret(?:[-_]key)?|password|passwd|authorization|credentials?"
    r"|(?:access|auth|bearer|refresh)[-_]?token)$",
    re.IGNORECASE,
)

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
    return _URL_CREDENTIALS.sub(f"://{MASK}@", text)


def redacted(value: Any, *, leaving_out: frozenset[str] = frozenset()) -> Any:
    """Plain data with every text in it redacted, keys of dictionaries too, without the keys of `leaving_out`."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list | tuple):
        return [redacted(item, leaving_out=leaving_out) for item in value]
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in leaving_out}
        return {redacted(key): redacted(item, leaving_out=leaving_out) for key, item in kept.items()}
    return value


def is_credential(path: Sequence[str]) -> bool:
    """Whether a path inside a provider's options, such as `headers.Authorization`, is the place of a credential."""
    if len(path) > 1 and path[0] in ("headers", "query") and _HEADER_OF_CREDENTIALS.search(path[-1]):
        return True
    return any(_FIELD_OF_CREDENTIALS.search(part) for part in path)


def masked(options: Any, path: Sequence[str] = ()) -> Any:
    """A provider's options, or a part of them, as they may be shown: without headers and without credentials."""
    if isinstance(options, dict):
        return {name: masked(value, (*path, name)) for name, value in options.items()}
    if isinstance(options, list):
        return [masked(value, path) for value in options]
    if path and (path[0] == "headers" or is_credential(path)):
        return MASK
    return redact(options) if isinstance(options, str) else options


def remember_credentials(options: Any, path: Sequence[str] = ()) -> None:
    """From now on the credentials in a provider's options are masked wherever they appear, also without the word for
    their scheme. What has no digit is a word, such as the name of a mode, and would be missing from every message."""
    if isinstance(options, dict):
        for name, value in options.items():
            remember_credentials(value, (*path, name))
    elif isinstance(options, str) and is_credential(path):
        for credential in (options, options.partition(" ")[2]):
            if any(map(str.isdigit, credential)):
                remember(credential.strip())


def may_hold_secret(text: str) -> bool:
    """Whether a text, or the JSON it is in, deserves `find_secrets`: one quick look that misses nothing of that."""
    if _HINTS.search(text) is not None:
        return True
    return any(known in text or json.dumps(known)[1:-1] in text for known in _known)


class Secret(NamedTuple):
    """A secret in a text: what it looks like, and where."""

    kind: str
    start: int
    end: int


def find_secrets(text: str) -> list[Secret]:
    """The secrets in `text`, in order and without overlaps: keys this process has loaded, keys and private keys by
    their shape, bearer tokens and credentials in URLs. Narrower than `redact` where that masks ordinary words."""
    found: list[Secret] = []
    for secret in sorted(sorted(_candidates(text)), key=lambda item: item.start - item.end):  # the longest first
        if all(secret.end <= other.start or secret.start >= other.end for other in found):
            found.append(secret)
    return sorted(found, key=lambda secret: secret.start)


def _candidates(text: str) -> Iterator[Secret]:
    for known in _known:
        start = text.find(known)
        while start >= 0:
            yield Secret("loaded_key", start, start + len(known))
            start = text.find(known, start + len(known))
    for match in _PRIVATE_KEY.finditer(text):
        yield Secret("private_key", *match.span())
    for match in _SHAPES.finditer(text):
        if not match[0].startswith("-----"):
            yield Secret("api_key", *match.span())
    for kind, pattern in (("bearer_token", _LONG_BEARER), ("url_password", _URL_PASSWORD)):
        for match in pattern.finditer(text):
            if MASK not in match[1]:
                yield Secret(kind, *match.span(1))
