"""Which tools exist: sources, membership, orphans and the generation that guards every edit (contract 05 §2).

The surface is one immutable value that is swapped whole, so readers need no
lock and a failed operation changes nothing. The state carries manifests and
membership, never executors: those are bound again from the live sources. The
generation never goes back, except that a registry which has only had sources
registered adopts the generation of the snapshot it is restored from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from lash_cli.core.codec import Record
from lash_cli.core.protocols import PreparesCalls, ResolvesTools, RunsGrantedCalls, ToolProvider
from lash_cli.core.tool_definition import ToolExecutionGrant
from lash_cli.core.tools import FailureClass, ToolCatalogEntry, ToolContract, ToolManifest, ToolState
from lash_cli.errors import GenerationMismatch, ReconfigureError
from lash_cli.tools.surface import (
    Entry,
    LiveTool,
    Surface,
    apply_entries,
    check_found,
    check_state,
    checked_generation,
    collect_live,
    rebuild,
    state_of,
    with_source_rules,
)

if TYPE_CHECKING:
    from lash_cli.tools.faults import ToolFault


class ResolvedTool(msgspec.Struct, frozen=True):
    """A callable tool and the provider that runs it; `grant` is the authority to call one that is not in the
    catalogue."""

    manifest: ToolManifest
    source_id: str
    provider: ToolProvider
    grant: ToolExecutionGrant | None = None

    @property
    def prepares_calls(self) -> bool:
        """Whether the provider readies calls of the tool."""
        return self.grant is not None or isinstance(self.provider, PreparesCalls)

    def contract(self) -> ToolContract:
        """The contract, read from the provider for this tool only; raises `KeyError` when it has none. That of a grant
        stands in the grant."""
        return self.provider.contract(self.manifest.id) if self.grant is None else self.grant.contract


class ToolRestoreReport(Record):
    """What a restore did (contract 05 §2.2). `changed` says that the surface differs from the snapshot and wants to be
    persisted."""

    generation: int
    orphaned: tuple[str, ...] = ()
    changed: bool = False


class ToolRegistry:
    """The tool surface of one session. Every method is synchronous and all-or-nothing."""

    def __init__(self, hidden_names: Iterable[str] = ()) -> None:
        """`hidden_names` are excluded by authority for the life of the registry."""
        self._hidden = frozenset(hidden_names)
        self._surface = Surface()
        self._added = 0
        # True until the first edit: such a registry has no history of its own that a restore could contradict.
        self._is_cold = True

    @property
    def generation(self) -> int:
        """The current generation."""
        return self._surface.generation

    @property
    def surface(self) -> Surface:
        """Sources and entries as they are now; immutable, so it can be kept for `roll_back`."""
        return self._surface

    def roll_back(self, surface: Surface) -> None:
        """Take back edits that could not be committed, new and removed sources included."""
        self._swap(surface)

    def export_state(self) -> ToolState:
        """The current state, to be edited and applied or persisted."""
        return state_of(self._surface.entries, self._surface.generation)

    def members(self) -> tuple[ToolManifest, ...]:
        """Manifests of the callable tools, sorted by id."""
        return tuple(entry.manifest for _, entry in sorted(self._surface.entries.items()) if self._is_callable(entry))

    def callable_tools(self) -> tuple[ResolvedTool, ...]:
        """The same tools with the sources that run them."""
        surface = self._surface
        resolved = [self._resolved(surface, entry) for _, entry in sorted(surface.entries.items())]
        return tuple(tool for tool in resolved if tool is not None)

    def catalog(self) -> tuple[ToolCatalogEntry, ...]:
        """The callable tools with their contracts, sorted by id (contract 05 §2.3); raises what a source raises."""
        return tuple(_catalog_entry(tool) for tool in self.callable_tools())

    def resolve(self, name: str) -> ResolvedTool | None:
        """The callable tool the model knows as `name`; None for hidden, non-member and orphaned ones."""
        surface = self._surface
        for entry in surface.entries.values():
            if entry.manifest.name == name:
                return self._resolved(surface, entry)
        return None

    def find(self, name: str) -> ResolvedTool | None:
        """Like `resolve`, but a name that nothing is known of is asked of the sources that have more tools than they
        advertise: the tool is a member from then on, and the generation moves.

        Raises `ReconfigureError` when several sources have it, or one answers with another tool, and what a source
        raises; then nothing changed.
        """
        known = self.resolve(name)
        if known is not None or name in self._hidden or name in self._names():
            return known
        return self._taken("name", name)

    def find_id(self, tool_id: str) -> ResolvedTool | None:
        """Like `find`, by id."""
        return self.resolve_id(tool_id) if tool_id in self._surface.entries else self._taken("id", tool_id)

    def _taken(self, field: Literal["id", "name"], asked: str) -> ResolvedTool | None:
        """The tool that nothing was known of, as a member; None where no source has it, or it has the id or the name of
        one that is known, or a name that is hidden."""
        surface = self._surface
        found: dict[str, LiveTool] = {}
        for source_id, source in surface.sources.items():
            if not isinstance(source, ResolvesTools):
                continue
            manifest = source.resolve_manifest(asked) if field == "name" else source.resolve_manifest_by_id(asked)
            if manifest is None:
                continue
            check_found(manifest, field, asked, source_id, found.values())
            found[manifest.id] = LiveTool(manifest, source_id)
        taken = self._names() | self._hidden
        if any(tool_id in surface.entries or tool.manifest.name in taken for tool_id, tool in found.items()):
            return None
        if not found:
            return None
        entries = {tool_id: Entry(tool.manifest, tool, member=True) for tool_id, tool in found.items()}
        self._swap(
            Surface(
                checked_generation(surface.generation + 1),
                surface.sources,
                {**surface.live, **found},
                {**surface.entries, **entries},
            )
        )
        return self.resolve_id(next(iter(found)))

    def _names(self) -> set[str]:
        """What the known tools are called, whatever became of them."""
        return {entry.manifest.name for entry in self._surface.entries.values()}

    def resolve_id(self, tool_id: str) -> ResolvedTool | None:
        """Like `resolve`, by id."""
        entry = self._surface.entries.get(tool_id)
        return None if entry is None else self._resolved(self._surface, entry)

    def granted(self, grant: ToolExecutionGrant) -> ResolvedTool:
        """The tool of a grant, which never becomes part of the state (contract 05 §1.8).

        Its source is the one that the grant names. Raises `ToolFault` (`tool_unavailable`) when it names none, one that
        is not there or does not run granted calls, and for a tool that is hidden: authority over a session stands
        above any grant.
        """
        manifest, source_id = grant.manifest, grant.source_id
        held = self._surface.entries.get(manifest.id)
        if manifest.name in self._hidden or (held is not None and held.is_hidden(self._hidden)):
            raise _not_granted(f"There is no tool named {manifest.name!r}.")
        if source_id is None:
            raise _not_granted(f"The grant of {manifest.name} names no source that could run it.")
        provider = self._surface.sources.get(source_id)
        if provider is None:
            raise _not_granted(f"The source of {manifest.name} is missing.")
        if not isinstance(provider, RunsGrantedCalls):
            raise _not_granted(f"The source of {manifest.name} runs no granted calls.")
        if held is not None and held.live is not None and held.live.source_id == source_id:
            manifest = with_source_rules(manifest, held.live.manifest)
        return ResolvedTool(manifest, source_id, provider, grant)

    def source(self, source_id: str) -> ToolProvider | None:
        """The provider registered under a source id."""
        return self._surface.sources.get(source_id)

    def upsert_source(self, source_id: str, provider: ToolProvider) -> int:
        """Register or replace a source; returns the generation, moved only if the surface changed.

        Raises `ReconfigureError` for a blank id and for tools that clash with those of another source.
        """
        if not source_id.strip():
            raise ReconfigureError("a tool source needs a non-blank id")
        return self._refresh({**self._surface.sources, source_id: provider})

    def add_source(self, provider: ToolProvider) -> str:
        """Register a source under the next id of those that are added at run time, `live:1` and so on, and return it.

        The sources that a program adds in the same order have the same ids in every process: so the grant of a turn
        that is gone on with finds its own (contract 05 §2.1). Raises as `upsert_source`.
        """
        source_id = f"live:{self._added + 1}"
        self.upsert_source(source_id, provider)
        self._added += 1
        return source_id

    def refresh_sources(self) -> int:
        """Ask every source again what it offers; existing membership is kept."""
        return self._refresh(self._surface.sources)

    def remove_source(self, source_id: str) -> int:
        """Drop a source and its tools; raises `ReconfigureError` `tool_source_unknown`."""
        surface = self._surface
        if source_id not in surface.sources:
            raise ReconfigureError(f"unknown tool source {source_id}", code="tool_source_unknown")
        sources = {known: provider for known, provider in surface.sources.items() if known != source_id}
        live = self._live(sources)
        entries = rebuild(live, surface.entries, self._hidden, keep_gone=False)
        self._swap(Surface(checked_generation(surface.generation + 1), sources, live, entries))
        return self.generation

    def apply_state(self, state: ToolState) -> int:
        """Make `state` the set; returns the new generation, always one more.

        Raises `GenerationMismatch` when the surface moved since the export and
        `ReconfigureError` when the state is not valid; then nothing changed.
        """
        surface = self._surface
        self._check_generation(state.generation)
        live = self._with_found(surface.live, surface.sources, state.tools)
        entries = apply_entries(state, live, self._hidden)
        self._swap(Surface(checked_generation(surface.generation + 1), surface.sources, live, entries))
        self._is_cold = False
        return self.generation

    def restore_state(self, snapshot: ToolState) -> ToolRestoreReport:
        """Reconcile a persisted state with the live sources, which define the set.

        Tools of the snapshot that no source offers stay as orphans. Raises
        `ReconfigureError` for a malformed snapshot.
        """
        check_state(snapshot)
        surface = self._surface
        known = {tool_id: Entry(stated.manifest, None, stated.member) for tool_id, stated in snapshot.tools.items()}
        live = self._with_found(surface.live, surface.sources, known)
        entries = rebuild(live, known, self._hidden, keep_gone=True)
        generation = self._restored_generation(snapshot, entries)
        self._swap(Surface(checked_generation(generation), surface.sources, live, entries))
        self._is_cold = False
        return ToolRestoreReport(
            generation=generation,
            orphaned=tuple(sorted(tool_id for tool_id, entry in entries.items() if entry.live is None)),
            changed=self.export_state() != snapshot,
        )

    def set_membership(self, changes: Mapping[str, bool], *, expected_generation: int | None = None) -> int:
        """Set membership by tool id, all or nothing; returns the new generation.

        Raises `ReconfigureError` `tool_unknown` for an unknown id, and
        `GenerationMismatch` when `expected_generation` is given and stale.
        """
        if expected_generation is not None:
            self._check_generation(expected_generation)
        state = self.export_state()
        for tool_id, present in changes.items():
            state = state.set_membership(tool_id, present)
        return self.apply_state(state)

    def set_tool_membership(self, wanted: Mapping[str, bool], *, expected_generation: int | None = None) -> int:
        """Set membership by tool name, all or nothing; hidden names are unknown. See `set_membership`."""
        ids = {name: tool_id for tool_id, name in self._shown_names().items()}
        changes: dict[str, bool] = {}
        for name, present in wanted.items():
            if name not in ids:
                raise ReconfigureError(f"unknown tool `{name}`", code="tool_unknown")
            changes[ids[name]] = present
        return self.set_membership(changes, expected_generation=expected_generation)

    def name_of(self, tool: str) -> str:
        """The name of the tool with that id, or else with that name; hidden ones are unknown. Raises
        `ReconfigureError` `tool_unknown`."""
        names = self._shown_names()
        if tool in names:
            return names[tool]
        if tool in names.values():
            return tool
        raise ReconfigureError(f"unknown tool `{tool}`", code="tool_unknown")

    def _shown_names(self) -> dict[str, str]:
        """The names of the tools that are not hidden, by id."""
        entries = self._surface.entries.items()
        return {tool_id: entry.manifest.name for tool_id, entry in entries if not entry.is_hidden(self._hidden)}

    def fork_with_state(self, state: ToolState, hidden_names: Iterable[str] = ()) -> ToolRegistry:
        """A registry for a child session: the same sources, the given state, at least the same hidden names."""
        child = ToolRegistry(self._hidden | frozenset(hidden_names))
        child._added = self._added
        child._surface = Surface(0, self._surface.sources, self._surface.live)
        child.restore_state(state)
        return child

    def _refresh(self, sources: Mapping[str, ToolProvider]) -> int:
        surface = self._surface
        live = self._live(sources)
        entries = rebuild(live, surface.entries, self._hidden, keep_gone=False)
        is_changed = sources.keys() != surface.sources.keys() or entries != surface.entries
        generation = checked_generation(surface.generation + is_changed)
        self._swap(Surface(generation, dict(sources), live, entries))
        return generation

    def _restored_generation(self, snapshot: ToolState, entries: Mapping[str, Entry]) -> int:
        restored = state_of(entries, snapshot.generation)
        generation = snapshot.generation + (restored != snapshot)
        if self._is_cold:
            return generation
        current = self._surface.generation
        is_moved = state_of(self._surface.entries, snapshot.generation) != restored
        return max(generation, current + is_moved)

    def _check_generation(self, expected: int) -> None:
        actual = self._surface.generation
        if expected != actual:
            raise GenerationMismatch(
                f"the tool surface changed: expected generation {expected}, found {actual}",
                details={"expected": expected, "actual": actual},
            )

    def _is_callable(self, entry: Entry) -> bool:
        return entry.member and entry.live is not None  # what is hidden is no member

    def _resolved(self, surface: Surface, entry: Entry) -> ResolvedTool | None:
        if entry.live is None or not self._is_callable(entry):
            return None
        source_id = entry.live.source_id
        return ResolvedTool(entry.manifest, source_id, surface.sources[source_id])

    def _live(self, sources: Mapping[str, ToolProvider]) -> Mapping[str, LiveTool]:
        live = collect_live({source_id: tuple(provider.manifests()) for source_id, provider in sources.items()})
        return self._with_found(live, sources, self._surface.entries)

    def _with_found(
        self, live: Mapping[str, LiveTool], sources: Mapping[str, ToolProvider], known: Iterable[str]
    ) -> Mapping[str, LiveTool]:
        """`live` with what sources have of the known tools without advertising it."""
        resolving = {source_id: source for source_id, source in sources.items() if isinstance(source, ResolvesTools)}
        missing = [tool_id for tool_id in known if tool_id not in live] if resolving else []
        found: dict[str, LiveTool] = {}
        names = {tool.manifest.name for tool in live.values()} if missing else set()
        for tool_id in missing:
            for source_id, source in resolving.items():
                manifest = source.resolve_manifest_by_id(tool_id)
                if manifest is None:
                    continue
                mine = [tool for tool in found.values() if tool.manifest.id == tool_id]
                check_found(manifest, "id", tool_id, source_id, mine)
                if manifest.name not in names:
                    found[tool_id] = LiveTool(manifest, source_id)
                    names.add(manifest.name)
        return {**live, **found} if found else live

    def _swap(self, surface: Surface) -> None:
        self._surface = surface


def _catalog_entry(tool: ResolvedTool) -> ToolCatalogEntry:
    manifest = tool.manifest
    try:
        contract = tool.contract()
    except KeyError:
        contract = None
    return ToolCatalogEntry(
        manifest.id, manifest.name, manifest.description, manifest.bindings, manifest.activation, contract
    )


def _not_granted(text: str) -> ToolFault:
    from lash_cli.tools.faults import ToolFault  # few sessions ever need one

    return ToolFault(FailureClass.UNAVAILABLE, "tool_unavailable", text)
