"""The tool surface of one session, as its host edits it (contract 05 §2.4).

Reads come from the registry's current snapshot and never wait for a turn.
Every change is committed before the call returns (design D19).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from lash_cli.core.protocols import ToolProvider
from lash_cli.core.tools import ToolManifest, ToolState
from lash_cli.errors import ReconfigureError
from lash_cli.tools.registry import ToolRegistry, ToolRestoreReport

if TYPE_CHECKING:
    from lash_cli.api.session import LashSession


class ToolAdmin:
    """Membership and sources of one session's tools."""

    def __init__(self, session: LashSession) -> None:
        self._session = session

    @property
    def _registry(self) -> ToolRegistry:
        return self._session._state.registry

    def state(self) -> ToolState:
        """The serialisable surface with its generation."""
        return self._registry.export_state()

    def active_manifests(self) -> tuple[ToolManifest, ...]:
        """Members only, ordered by id."""
        return self._registry.members()

    async def set_membership(self, name: str, present: bool) -> int:
        """Make one tool a member or not; returns the new generation. Raises `ReconfigureError` when unknown."""
        return await self.set_membership_many([(name, present)])

    async def set_membership_many(self, changes: Iterable[tuple[str, bool]]) -> int:
        """Several changes by tool name, all or nothing, committed together."""
        wanted = dict(changes)

        def change() -> None:
            ids = {entry.manifest.name: tool_id for tool_id, entry in self._registry.export_state().tools.items()}
            unknown = [name for name in wanted if name not in ids]
            if unknown:
                raise ReconfigureError(f"unknown tool `{unknown[0]}`", code="tool_unknown")
            self._registry.set_membership({ids[name]: present for name, present in wanted.items()})

        await self._edit(change)
        return self._registry.generation

    async def apply_state(self, state: ToolState) -> int:
        """Replace the surface by an edited export; raises `GenerationMismatch` when it moved meanwhile."""
        await self._edit(lambda: self._registry.apply_state(state))
        return self._registry.generation

    async def restore_state(self, state: ToolState) -> ToolRestoreReport:
        """Reconcile a durable snapshot with the live sources."""
        report: list[ToolRestoreReport] = []
        await self._edit(lambda: report.append(self._registry.restore_state(state)))
        return report[0]

    async def add_provider(self, source_id: str, provider: ToolProvider) -> int:
        """Add a live source of tools; returns the new generation."""
        await self._edit(lambda: self._registry.upsert_source(source_id, provider))
        return self._registry.generation

    async def remove_source(self, source_id: str) -> int:
        """Remove a source and its tools; returns the new generation."""
        await self._edit(lambda: self._registry.remove_source(source_id))
        return self._registry.generation

    async def _edit(self, change: Callable[[], object]) -> None:
        await self._session._edit_tools(change)
