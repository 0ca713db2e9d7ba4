"""Shapes of the envelopes that cross a wire (contract 04 §6)."""

from typing import Any

KINDS: dict[str, Any] = {}
