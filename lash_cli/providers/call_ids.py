"""The ids of the calls of one answer (contract 06 §1): every call of a committed message has one, and no two the same.

Apart from the wires, because all of them need it.
"""

from __future__ import annotations

import hashlib


def synthetic_call_id(request_id: str, position: int) -> str:
    """An id for a call the model left unnamed: stable over attempts, distinct between the calls of a session."""
    return f"call_{position}_{hashlib.sha256(request_id.encode()).hexdigest()[:8]}"


class CallIds:
    """Hands out the ids of one answer's calls, in the order of the calls. `request_id` seeds those that are missing."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._used: set[str] = set()

    def of(self, given: str) -> str:
        """What the provider called the call, unless that is empty or another call's."""
        identity = given
        if not identity or identity in self._used:
            identity = synthetic_call_id(self._request_id, len(self._used))
        self._used.add(identity)
        return identity
