"""A wire as the configuration builds it, without the ladder around its provider."""

from __future__ import annotations

from typing import Any

from lash_cli.providers import catalog
from lash_cli.providers.attachments import RequestAttachments
from lash_cli.providers.wire import Wire


def wire(kind: str, base_url: str, key: str | None = None, *, name: str = "p", **options: Any) -> Wire[Any]:
    """The wire of a provider called `name`; raises `ConfigError`."""
    settings = catalog.ProviderSettings(name, kind, base_url, key, options)
    known = catalog.KINDS[kind]
    return catalog._wire(settings, known, catalog._options(settings, known), RequestAttachments().bytes_of)
