"""Fixtures of the wire tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers on this machine are called directly, whatever proxy its environment names."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
