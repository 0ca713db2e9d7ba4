"""Where a provider lives and what opens its door: addresses, keys, headers and queries, checked (contract 06 §9).

Everything is checked when a provider is wired, before anything is sent, and
no error here repeats a value that may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from lash_cli.core.codec import encode
from lash_cli.errors import ConfigError

_SECRET_HEADER = re.compile("auth|key|token|cookie|secret")
_SECRET_PARAMETER = re.compile(r"key|token|secret|password|\b(?:auth|sig|signature)\b")
_HTML_READABLE = re.compile(r"""\\?"|[&'+<>`]""")
_PLAIN_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")
_HEADER_NAME = re.compile("[a-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile("[\t -~]*")
_FRAMING_HEADERS = ("connection", "content-length", "transfer-encoding")


def checked_base_url(base_url: str, *, endings: tuple[str, ...] = ()) -> str:
    """`base_url` without a trailing slash.

    `endings` are the paths the wire adds itself. Raises `ConfigError`
    (`invalid_provider_endpoint`) unless it is an http(s) address with a host
    and without credentials, query or fragment.
    """
    url = base_url.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        is_sound = bool(parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0))
        problem = "" if is_sound else "it must look like https://host/v1"
        if parts.username is not None or parts.password is not None:
            problem = "credentials belong into the key, not into the address"
        elif parts.query or parts.fragment or any(c.isspace() or not c.isprintable() for c in url):
            problem = "it must have no query, fragment or white space"
        else:
            added = next((ending for ending in endings if parts.path.endswith(ending)), None)
            problem = f"leave out {added}; it is added" if added else problem
        if not problem and not _PLAIN_HOST.fullmatch(parts.netloc):
            from lash_cli.providers.http import address_refusal  # loads the HTTP library, which few addresses need

            problem = address_refusal(url) or ""
    except ValueError as error:
        problem = str(error)
    if problem:
        # What stands before an @ or behind a ? or # may be the key.
        shown = re.sub(r"([?#]).*", r"\1…", base_url.rpartition("@")[2], flags=re.DOTALL)
        raise ConfigError(f"base_url {shown!r} is not usable: {problem}", code="invalid_provider_endpoint")
    return url


def checked_key(api_key: str | None) -> str | None:
    """`api_key` without surrounding white space, None when blank; raises `ConfigError` when no header can carry it."""
    key = (api_key or "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise ConfigError("the API key holds characters that cannot be sent; copy it again")
    return key or None


class Access(NamedTuple):
    """Where a provider lives and how it is asked; `headers` of the configuration win over a wire's own.

    `query` goes behind every path (Azure's `api-version`). `key_header` is the
    header that carries the key as it is; without one it is a bearer token.
    """

    base_url: str
    key: str | None = None
    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    key_header: str | None = None

    @classmethod
    def checked(
        cls,
        base_url: str,
        key: str | None,
        headers: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        key_header: str | None = None,
        endings: tuple[str, ...] = (),
    ) -> Access:
        """Checked and normalised access. Raises `ConfigError`."""
        base_url = checked_base_url(base_url, endings=endings)
        return cls(
            base_url,
            checked_key(key),
            _checked_headers(headers or {}),
            _checked_query(query or {}),
            _checked_key_header(key_header),
        )

    def __repr__(self) -> str:
        shown = "no key" if self.key is None else "key=[redacted]"
        return f"Access({self.base_url}, {shown}, headers={sorted(self.headers)})"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The key and the value of every header that looks like one, also behind the word for its scheme, and each as
        an address or a JSON text would hold it."""
        plain = [self.key] if self.key else []
        for name, value in self.headers.items():
            if _SECRET_HEADER.search(name):
                plain += [value, value.partition(" ")[2].strip()]
        return tuple(dict.fromkeys(form for secret in plain if secret for form in _forms(secret)))

    @property
    def authentication(self) -> dict[str, str]:
        """The header that carries the key; none without a key."""
        if not self.key:
            return {}
        if self.key_header is None:
            return {"authorization": f"Bearer {self.key}"}
        return {self.key_header: self.key}

    def url(self, path: str, **query: str) -> str:
        """The address of `path`, with the configured query and what the wire itself says there."""
        asked = {**self.query, **query}
        return self.base_url + path + (f"?{urlencode(sorted(asked.items()))}" if asked else "")


def _forms(secret: str) -> tuple[str, ...]:
    """`secret` as it is, in an address, and in JSON, where PHP escapes slashes too and .NET what HTML could read."""
    written = encode(secret).decode()[1:-1]
    careful = _HTML_READABLE.sub(lambda found: f"\\u{ord(found[0][-1]):04X}", written)
    return secret, quote(secret, safe=""), written, written.replace("/", "\\/"), careful


def _checked_query(query: Mapping[str, str]) -> Mapping[str, str]:
    """Addresses are logged and traced, so that none may hold a credential; raises `ConfigError`."""
    for name in query:
        if _SECRET_PARAMETER.search(name.lower().replace("_", "-")):
            raise ConfigError(
                f"the query parameter {name!r} looks like a credential; give it as the key or as a header"
            )
    return dict(query)


def _checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """`headers` by their names in lower case; raises `ConfigError`, which never repeats a value."""
    checked = {}
    for name, value in headers.items():
        lowered = name.strip().lower()
        if not _HEADER_NAME.fullmatch(lowered):
            raise ConfigError(f"{name!r} under headers is not the name of a header")
        if lowered in _FRAMING_HEADERS:
            raise ConfigError(f"the header {name!r} cannot be configured: every request has its own")
        if not _HEADER_VALUE.fullmatch(value.strip()):
            raise ConfigError(f"the value of the header {name!r} holds characters that cannot be sent")
        checked[lowered] = value.strip()
    return checked


def _checked_key_header(name: str | None) -> str | None:
    """`name` in lower case, None for the bearer header; raises `ConfigError` when it is no header name."""
    lowered = (name or "").strip().lower()
    if lowered and not _HEADER_NAME.fullmatch(lowered):
        raise ConfigError(f"key_header {name!r} is not the name of a header")
    return None if lowered in ("", "authorization") else lowered
