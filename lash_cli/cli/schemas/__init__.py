"""Every kind of JSON that `lash` prints: what it is called and which shape it has (contract 08 §6.1).

The one home of these shapes. What a verb prints is checked against them in
tests, and the schemas made of them are pinned, so neither can drift. Imported
by `lash schema` alone: no other command pays for it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from lash_cli.cli.schemas import (
    database,
    events,
    history,
    models,
    queue,
    remote,
    serving,
    sessions,
    setup,
    shelf,
    trace,
    transcripts,
)

_CONTRACT = re.compile(r" \((?:contract|design) [^)]*\)")


def without_contract(text: str) -> str:
    """A docstring without the contract it names, which is for those who build lash."""
    return _CONTRACT.sub("", text)


class Kind(NamedTuple):
    """One kind: its name, what it is, and its shape. For a list the shape is that of its items."""

    name: str
    family: str
    shape: Any

    @property
    def leaves_out(self) -> bool:
        """Whether what is absent is left out, instead of being there as null."""
        return self.family in ("remote", "trace", "file")

    @property
    def description(self) -> str:
        """What it is."""
        # What a union of records cannot say of itself.
        text = {**remote.TEXTS, **trace.TEXTS}.get(self.name) if self.leaves_out else None
        described = without_contract(" ".join((text or self.shape.__doc__ or "").split()))
        return f"A list: {described}" if self.family == "list" else described

    @property
    def summary(self) -> str:
        """What it is, in one sentence."""
        return self.description.partition(". ")[0].rstrip(".") + "."


def _named(*shapes: Any) -> dict[str, Any]:
    """Shapes that are called as their kinds."""
    return {shape.__name__: shape for shape in shapes}


def _event(shape: Any) -> str:
    """What an event is called: `tool_started` of `ToolStarted`, `usage` of `UsageLine`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", shape.__name__.removesuffix("Line")).lower()


_DOCUMENTS = {
    **_named(
        queue.Batch, queue.BatchCancel, sessions.CancelReceipt, queue.ClaimAbandoned, database.Collection,
        setup.CompletionInstalled, setup.ConfigCheck, setup.ConfigEdit, setup.ConfigRemoved, history.Compaction,
        setup.ConfigValue, database.DatabaseBackup, database.DatabaseCheck, database.DatabaseInfo,
        database.DatabaseMigration, database.DatabasePath, database.DatabasePurge, database.DatabaseRestore,
        database.DatabaseScrub, database.DatabaseVacuum, setup.Doctor, shelf.Exported, setup.Key, setup.KeyPath,
        setup.KeyTest, models.Model, models.ModelAlias, models.ModelDefault, sessions.Parked, setup.Paths,
        queue.PendingInput, models.Provider, setup.ProjectTrust, models.ProviderTest, queue.QueueEdit, queue.QueueHold,
        history.Rewind, serving.RpcPong, serving.RpcShutdown, serving.RpcTail, sessions.Session, shelf.SessionSettings,
        sessions.SessionUsage, setup.Topic, setup.TracePage, transcripts.Transcript, history.Tree, sessions.Turn,
        sessions.TurnResult, sessions.TurnUsage, setup.Version, sessions.Wait, queue.WaitsRevoked, sessions.WorkReport,
    ),
    "ConfigEntry": setup.ConfigItem,
    "QueueItem": queue.PendingItem,
}  # fmt: skip
_LISTS: dict[str, Any] = {
    "BatchList": queue.Batch,
    "CancelOutcomeList": queue.CancelOutcome,
    "Closed": sessions.BulkItem,
    "ConfigList": setup.ConfigItem,
    "Deleted": sessions.BulkItem,
    "Imported": sessions.ImportItem,
    "KeyList": setup.KeyItem,
    "ModelList": models.ModelItem,
    "ProviderList": models.ProviderItem,
    "QueueEditList": queue.RecoveredEdit,
    "QueueList": queue.PendingItem,
    "SchemaList": setup.SchemaItem,
    "SecretList": database.SecretItem,
    "SearchHitList": shelf.SearchHit,
    "SessionList": sessions.SessionItem,
    "ToolList": sessions.ToolItem,
    "UsageList": shelf.UsageRow,
    "TopicList": setup.TopicItem,
    "TrustList": setup.TrustItem,
}
# What `-o jsonl` prints of a list, and the lines of a transcript: one per line, without an envelope.
_ITEMS = _named(
    sessions.SessionItem, transcripts.MessageItem, shelf.ExportedMessage, serving.RpcEvent, serving.RpcReady,
    serving.RpcResponse,
)  # fmt: skip
_NOTICES = _named(setup.Error, setup.Warning)
_EVENTS = {
    _event(shape): shape
    for shape in (
        events.StreamStart, events.StreamEnd, events.TurnStarted, events.TurnFinished, events.ModelRequestStarted,
        events.Retry, events.TextDelta, events.ReasoningDelta, events.AttemptReset, events.ToolStarted,
        events.ToolProgress, events.ToolCompleted, events.CodeStarted, events.CodeCompleted, events.FinalValue,
        events.ToolValue, events.UsageLine, events.ChildUsage, events.InputAccepted, events.WorkStarted,
        events.QueueChanged, events.ProcessChanged, events.FrameSwitched, events.ResidentChanged, events.Committed,
        events.Gap, events.Snapshot, events.MessageLine, events.SessionLine, events.ErrorLine, events.WarningLine,
        events.Plugin, events.Heartbeat,
    )
}  # fmt: skip

KINDS: dict[str, Kind] = {
    name: Kind(name, family, shape)
    for family, table in (
        ("document", _DOCUMENTS),
        ("list", _LISTS),
        ("item", _ITEMS),
        ("event", _EVENTS),
        ("notice", _NOTICES),
        ("file", shelf.FILES),
        ("remote", remote.KINDS),
        ("trace", trace.KINDS),
    )
    for name, shape in table.items()
}
