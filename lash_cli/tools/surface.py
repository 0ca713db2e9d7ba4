"""The tool surface as a value, and the decisions about it as pure functions (contract 05 §2).

A surface says which sources live, what they offer and what is known of every
tool. Each function here judges or derives entries and changes nothing, so an
operation of the registry that fails half-way has changed nothing either.

Two rules hold beyond the contract's table: the rules of execution (approval
class, retry policy, time limit, exclusive group, argument projection) and the
prompt rendering of the contract always come from the live source, because an
old snapshot must neither weaken nor misdescribe what the installed code
demands; and an edited name gives way to a source that now uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from lash_cli.core.protocols import ToolProvider
from lash_cli.core.tools import ToolManifest, ToolState, ToolStateEntry, readable_manifest
from lash_cli.errors import ReconfigureError

MAX_GENERATION = 2**64 - 1
CONTEXT_SOURCE = "context"


class LiveTool(msgspec.Struct, frozen=True):
    """A tool some live source offers right now."""

    manifest: ToolManifest
    source_id: str


class Entry(msgspec.Struct, frozen=True):
    """One known tool. `live` is None for an orphan; `manifest` may carry edits over the source's own."""

    manifest: ToolManifest
    live: LiveTool | None
    member: bool

    def is_hidden(self, hidden: frozenset[str]) -> bool:
        """Whether authority excludes it, under its shown name or the name its source gave it."""
        return self.manifest.name in hidden or (self.live is not None and self.live.manifest.name in hidden)


class Surface(msgspec.Struct, frozen=True):
    """The whole registry at one instant."""

    generation: int = 0
    sources: Mapping[str, ToolProvider] = msgspec.field(default_factory=dict)
    live: Mapping[str, LiveTool] = msgspec.field(default_factory=dict)
    entries: Mapping[str, Entry] = msgspec.field(default_factory=dict)


def collect_live(offers: Mapping[str, Iterable[ToolManifest]]) -> dict[str, LiveTool]:
    """What all sources offer together, by id.

    The `context` overlay replaces tools of equal id or name. Raises
    `ReconfigureError` when two other sources, or one source twice, offer the
    same id or name, and for a manifest that could not be read again.
    """
    live: dict[str, LiveTool] = {}
    id_by_name: dict[str, str] = {}
    for source_id, manifests in sorted(offers.items(), key=lambda offer: offer[0] == CONTEXT_SOURCE):
        for manifest in manifests:
            _check_readable(manifest, source_id)
            for other in {manifest.id, id_by_name.get(manifest.name, manifest.id)} & live.keys():
                held = live[other]
                if source_id != CONTEXT_SOURCE or held.source_id == CONTEXT_SOURCE:
                    raise ReconfigureError(
                        f"tool {manifest.name} ({manifest.id}) of source {source_id} has the same id or name as"
                        f" {held.manifest.name} ({held.manifest.id}) of source {held.source_id}"
                    )
                del live[other]
                del id_by_name[held.manifest.name]
            live[manifest.id] = LiveTool(manifest, source_id)
            id_by_name[manifest.name] = manifest.id
    return live


def _check_readable(manifest: ToolManifest, source_id: str) -> None:
    """Raise `ReconfigureError` for what a source offers that no stored state could hold."""
    try:
        readable_manifest(manifest)
    except ValueError as error:
        tool = manifest.name if isinstance(manifest, ToolManifest) else manifest
        raise ReconfigureError(f"tool {tool!r} of source {source_id} cannot be taken: {error}") from error


def with_source_rules(edited: ToolManifest, source: ToolManifest) -> ToolManifest:
    """`edited` with the rules of execution its source demands, and the contract its source shows."""
    return msgspec.structs.replace(
        edited,
        retry_policy=source.retry_policy,
        approval=source.approval,
        timeout_ms=source.timeout_ms,
        exclusive_group=source.exclusive_group,
        argument_projection=source.argument_projection,
        compact_contract=source.compact_contract,
    )


def rebuild(
    live: Mapping[str, LiveTool], known: Mapping[str, Entry], hidden: frozenset[str], *, keep_gone: bool
) -> dict[str, Entry]:
    """The entries when live sources define the set and `known` lays membership and edits over it.

    New tools are members. Known tools without a source are orphans: those
    already orphaned stay, the others only when `keep_gone`. An orphan whose
    name a live tool took is dropped with its opt-out.
    """
    entries: dict[str, Entry] = {}
    for tool_id, tool in live.items():
        held = known.get(tool_id)
        manifest = tool.manifest if held is None else _effective_manifest(held, tool)
        entries[tool_id] = Entry(manifest, tool, held is None or held.member)
    _undo_clashing_edits(entries)
    names = {entry.manifest.name for entry in entries.values()}
    for tool_id, held in known.items():
        if tool_id not in live and held.manifest.name not in names and (keep_gone or held.live is None):
            entries[tool_id] = Entry(held.manifest, None, held.member)
            names.add(held.manifest.name)
    return {
        tool_id: msgspec.structs.replace(entry, member=False) if entry.is_hidden(hidden) else entry
        for tool_id, entry in entries.items()
    }


def _effective_manifest(held: Entry, tool: LiveTool) -> ToolManifest:
    """An edit lasts until its source changes the manifest it was made on."""
    if held.live is not None and held.live.manifest != tool.manifest:
        return tool.manifest
    return with_source_rules(held.manifest, tool.manifest)


def _undo_clashing_edits(entries: dict[str, Entry]) -> None:
    """Give up edited names that a source now uses itself, so that an old edit never makes a session unopenable."""
    while True:
        holders: dict[str, str] = {}
        for tool_id, entry in entries.items():
            other = holders.setdefault(entry.manifest.name, tool_id)
            if other == tool_id:
                continue
            edited = tool_id if entry.live and entry.manifest.name != entry.live.manifest.name else other
            live = entries[edited].live
            if live is not None:
                entries[edited] = msgspec.structs.replace(entries[edited], manifest=live.manifest)
            break
        else:
            return


def apply_entries(state: ToolState, live: Mapping[str, LiveTool], hidden: frozenset[str]) -> dict[str, Entry]:
    """The entries when `state` defines the set; raises `ReconfigureError` when it is not consistent.

    An orphan of the state whose id is live again is bound. A tool the state
    calls bound must have a live source.
    """
    entries: dict[str, Entry] = {}
    names: dict[str, str] = {}
    for tool_id, stated in state.tools.items():
        manifest = stated.manifest
        check_identity(tool_id, manifest)
        tool = live.get(tool_id)
        if tool is None and not stated.orphaned:
            raise ReconfigureError(f"no live source offers tool {tool_id}")
        other = names.setdefault(manifest.name, tool_id)
        if other != tool_id:
            raise ReconfigureError(f"tools {other} and {tool_id} have the same name {manifest.name}")
        if tool is not None and stated.orphaned:
            manifest = with_source_rules(manifest, tool.manifest)
        elif tool is not None and manifest != with_source_rules(manifest, tool.manifest):
            raise ReconfigureError(
                f"approval, retry policy, time limit, exclusive group, argument projection and compact contract of tool"
                f" {tool_id} belong to its source"
            )
        entry = Entry(manifest, tool, stated.member)
        if entry.is_hidden(hidden) and stated.member:
            raise ReconfigureError(f"tool {tool_id} is hidden from this session and cannot be a member")
        entries[tool_id] = entry
    return entries


def check_identity(tool_id: str, manifest: ToolManifest) -> None:
    """Raise `ReconfigureError` unless map key and manifest id agree and nothing is blank."""
    if tool_id != manifest.id:
        raise ReconfigureError(f"the state files tool {manifest.id} under {tool_id}")
    if not tool_id.strip() or not manifest.name.strip():
        raise ReconfigureError("a tool needs a non-blank id and a non-blank name")


def check_state(snapshot: ToolState) -> None:
    """Raise `ReconfigureError` for a state that none can be restored from."""
    checked_generation(snapshot.generation)
    for tool_id, stated in snapshot.tools.items():
        check_identity(tool_id, stated.manifest)


def check_found(
    manifest: ToolManifest, field: Literal["id", "name"], asked: str, source_id: str, others: Iterable[LiveTool]
) -> None:
    """Judge the answer of a source to the question for the tool of an id or a name; raises `ReconfigureError` when it
    is not the one that was asked for, could not be read again, or others have answered too (contract 05 §2.2)."""
    _check_readable(manifest, source_id)
    check_identity(manifest.id, manifest)
    if getattr(manifest, field) != asked:
        raise ReconfigureError(f"source {source_id} answers with {manifest.name} ({manifest.id}) for {field} {asked}")
    for other in others:
        raise ReconfigureError(f"sources {other.source_id} and {source_id} both have a tool of {field} {asked}")


def state_of(entries: Mapping[str, Entry], generation: int) -> ToolState:
    """The serialisable state, ordered by id."""
    return ToolState(
        generation=generation,
        tools={
            tool_id: ToolStateEntry(entry.manifest, orphaned=entry.live is None, member=entry.member)
            for tool_id, entry in sorted(entries.items())
        },
    )


def checked_generation(generation: int) -> int:
    """`generation`; raises `ReconfigureError` outside of 0 to 2^64 - 1."""
    if not 0 <= generation <= MAX_GENERATION:
        raise ReconfigureError(f"tool state generation {generation} is out of range")
    return generation
