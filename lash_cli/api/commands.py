"""Session commands by name (contract 02 §6.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lash_cli.core.queued_work import RefreshToolCatalog, ResetSession, SessionCommandReceipt

if TYPE_CHECKING:
    from lash_cli.api.verbs import QueueVerbs


class SessionCommands:
    """What a session can be told to do between turns, from `LashSession.commands()` (contract 02 §6.2). Each call is
    idempotent by its key and raises `LashRuntimeError` (`session_command_idempotency_key`) for a blank one. The receipt
    proves that the command is durable, not that it was applied: see `LashSession.await_queued_work_batch`."""

    def __init__(self, session: QueueVerbs) -> None:
        self._session = session

    async def refresh_tool_catalog(self, reason: str, key: str) -> SessionCommandReceipt:
        """Ask every tool source again what it offers; the transcript is not touched."""
        return await self._session.submit_session_command(RefreshToolCatalog(reason), key)

    async def reset(self, reason: str, key: str) -> SessionCommandReceipt:
        """Start over under the same id and policy: the transcript and tool membership are replaced."""
        return await self._session.submit_session_command(ResetSession(reason), key)
