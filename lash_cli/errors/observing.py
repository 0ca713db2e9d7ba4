"""What can be wrong with watching a session behind its cursor (contract 04 §1).

Part of the tree in `lash_cli.errors`, where every name is found; apart from it, because most commands watch nothing
(design D16).
"""

from __future__ import annotations

from typing import Any

from lash_cli.errors import LashRuntimeError, StoreError


class LiveReplayError(LashRuntimeError):
    """Watching a session cannot go on from here (contract 04 §1); a gap is data and never this error."""

    def __init__(self, message: str, *, cause: StoreError | None = None, details: dict[str, Any] | None = None) -> None:
        """`cause` is what the store said: where that may be tried again, so may this, and what helps there helps here.
        Nothing was under way, so what is said of a write that may have happened is not."""
        super().__init__("live_replay", message, details=details if cause is None else {"code": cause.code})
        if cause is not None and not cause.ambiguous:
            self.retryable = cause.retryable
            self.exit_status = cause.exit_status
        if cause is not None and (not cause.ambiguous or cause.hint != cause._default_hint()):
            self.hint = cause.hint


class SubscriberLagged(LiveReplayError):
    """A subscription fell behind what is kept: drop it and subscribe again from the last delivered cursor."""

    def __init__(self, missed: int) -> None:
        super().__init__(f"lagged by {missed} events", details={"missed": missed})
        self.missed = missed


class LiveReplayClosed(LiveReplayError):
    """There is nothing left to watch: the session was deleted, or the store was closed."""

    def __init__(self, message: str, *, is_deleted: bool) -> None:
        super().__init__(message, details={"deleted": is_deleted})
        if is_deleted:
            self.exit_status = 3
