"""The tool surface of one session, as its host edits it (contract 05 §2.4).

Reads come from the registry's current snapshot and never wait for a turn.
Every change is committed before the call returns (design D19).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from lash_cli.api.across import require_kind
from lash_cli.core.protocols import ToolProvider
from lash_cli.core.tools import ToolManifest, ToolState
from lash_cli.runtime.host import require_collaborator
from lash_cli.tools.registry import ToolRegistry, ToolRestoreReport

if TYPE_CHECKING:
    from lash_cli.api.session import LashSession


class ToolSourceHandle(NamedTuple):
    """A source that was added to one session in this process (contract 05 §2.4)."""

    source_id: str


class ToolAdmin:
    """Membership and sources of one session's tools, from `LashSession.tools()` (contract 05 §2.4). A change raises
    `SessionExecutionBusy` while another owner holds the lane, and then nothing is changed."""

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

    async def set_membership(self, tool: str, present: bool) -> int:
        """Make one tool a member or not, by its id or its name; returns the new generation. Raises as
        `set_membership_many`."""
        return await self.set_membership_many([(tool, present)])

    async def set_membership_many(self, changes: Iterable[tuple[str, bool]]) -> int:
        """Several changes, all or nothing, committed together; the new generation. A tool is named by its id, or by
        its name where no tool has such an id. Raises `ReconfigureError` (`tool_unknown`), and `ConflictError`
        (`turn_unfinished`) while a turn that was cut off waits to be finished, which needs the tools it began with.
        """
        wanted = tuple(changes)
        registry = self._registry
        await self._edit(
            lambda: registry.set_tool_membership({registry.name_of(tool): present for tool, present in wanted}),
            is_for_finished=True,
        )
        return self._registry.generation

    async def add_provider(self, provider: ToolProvider) -> ToolSourceHandle:
        """Add a live source and make its tools members; the handle removes it again.

        Sources live in this process: an open in another one finds the tools
        as orphans until their source is added there. Its id, `live:1` for the
        first one and so on, is what a grant names it by. Raises `ReconfigureError`
        when a tool of the source clashes with one that is there, and `ConfigError` for what is no source.
        """
        require_collaborator("tools", provider)
        added: list[str] = []
        await self._edit(lambda: added.append(self._registry.add_source(provider)))
        return ToolSourceHandle(added[-1])

    async def remove_source(self, handle: ToolSourceHandle) -> int:
        """Remove a source and its tools; returns the new generation.

        Raises `ReconfigureError` `tool_source_unknown` for one that is gone.
        """
        require_kind(handle, ToolSourceHandle, hint="it is what add_provider returned")
        await self._edit(lambda: self._registry.remove_source(handle.source_id))
        return self._registry.generation

    def advanced(self) -> AdvancedToolAdmin:
        """Whole-state edits, for hosts that keep tool states of their own."""
        return AdvancedToolAdmin(self)

    async def _edit(self, change: Callable[[], object], *, is_for_finished: bool = False) -> None:
        """Sources may come and go at any time: a turn that was cut off may need one that is not there yet."""
        await self._session._edit_tools(change, is_for_finished=is_for_finished)


class AdvancedToolAdmin:
    """Replacement and reconciliation of the whole tool state (contract 05 §2.4)."""

    def __init__(self, admin: ToolAdmin) -> None:
        self._admin = admin

    async def apply_state(self, state: ToolState) -> int:
        """Replace the surface by an edited export; returns the new generation.

        Raises `GenerationMismatch` when the surface moved meanwhile, and `ConflictError` (`turn_unfinished`) as
        `ToolAdmin.set_membership_many`.
        """
        await self._admin._edit(lambda: self._admin._registry.apply_state(state), is_for_finished=True)
        return self._admin._registry.generation

    async def restore_state(self, state: ToolState) -> ToolRestoreReport:
        """Reconcile a durable snapshot with the live sources; raises `ReconfigureError` for a malformed one."""
        report: list[ToolRestoreReport] = []
        await self._admin._edit(lambda: report.append(self._admin._registry.restore_state(state)))
        return report[0]
