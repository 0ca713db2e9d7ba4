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


_DOCUMENTS: dict[str, Any] = {
    "Batch": queue.Batch,
    "BatchCancel": queue.BatchCancel,
    "CancelReceipt": sessions.CancelReceipt,
    "ClaimAbandoned": queue.ClaimAbandoned,
    "Collection": database.Collection,
    "CompletionInstalled": setup.CompletionInstalled,
    "ConfigCheck": setup.ConfigCheck,
    "ConfigEdit": setup.ConfigEdit,
    "ConfigEntry": setup.ConfigItem,
    "ConfigRemoved": setup.ConfigRemoved,
    "Compaction": history.Compaction,
    "ConfigValue": setup.ConfigValue,
    "DatabaseBackup": database.DatabaseBackup,
    "DatabaseCheck": database.DatabaseCheck,
    "DatabaseInfo": database.DatabaseInfo,
    "DatabaseMigration": database.DatabaseMigration,
    "DatabasePath": database.DatabasePath,
    "DatabasePurge": database.DatabasePurge,
    "DatabaseRestore": database.DatabaseRestore,
    "DatabaseScrub": database.DatabaseScrub,
    "DatabaseVacuum": database.DatabaseVacuum,
    "Doctor": setup.Doctor,
    "Exported": shelf.Exported,
    "Key": setup.Key,
    "KeyPath": setup.KeyPath,
    "KeyTest": setup.KeyTest,
    "Model": models.Model,
    "ModelAlias": models.ModelAlias,
    "ModelDefault": models.ModelDefault,
    "Parked": sessions.Parked,
    "Paths": setup.Paths,
    "PendingInput": queue.PendingInput,
    "Provider": models.Provider,
    "ProjectTrust": setup.ProjectTrust,
    "ProviderTest": models.ProviderTest,
    "QueueEdit": queue.QueueEdit,
    "QueueHold": queue.QueueHold,
    "QueueItem": queue.PendingItem,
    "Rewind": history.Rewind,
    "RpcPong": serving.RpcPong,
    "RpcShutdown": serving.RpcShutdown,
    "RpcTail": serving.RpcTail,
    "Session": sessions.Session,
    "SessionSettings": shelf.SessionSettings,
    "SessionUsage": sessions.SessionUsage,
    "Topic": setup.Topic,
    "TracePage": setup.TracePage,
    "Transcript": transcripts.Transcript,
    "Tree": history.Tree,
    "Turn": sessions.Turn,
    "TurnResult": sessions.TurnResult,
    "TurnUsage": sessions.TurnUsage,
    "Version": setup.Version,
    "Wait": sessions.Wait,
    "WaitsRevoked": queue.WaitsRevoked,
    "WorkReport": sessions.WorkReport,
}
_LISTS: dict[str, Any] = {
    "BatchList": queue.Batch,
    "CancelOutcomeList": queue.CancelOutcome,
    "Closed": sessions.BulkItem,
    "ConfigList": setup.ConfigItem,
    "Deleted": sessions.BulkItem,
    "Imported": sessions.BulkItem,
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
_ITEMS: dict[str, Any] = {
    "SessionItem": sessions.SessionItem,
    "MessageItem": transcripts.MessageItem,
    "ExportedMessage": shelf.ExportedMessage,
    "RpcEvent": serving.RpcEvent,
    "RpcReady": serving.RpcReady,
    "RpcResponse": serving.RpcResponse,
}
_NOTICES: dict[str, Any] = {"Error": setup.Error, "Warning": setup.Warning}
_EVENTS: dict[str, Any] = {
    "stream_start": events.StreamStart,
    "stream_end": events.StreamEnd,
    "turn_started": events.TurnStarted,
    "turn_finished": events.TurnFinished,
    "model_request_started": events.ModelRequestStarted,
    "retry": events.Retry,
    "text_delta": events.TextDelta,
    "reasoning_delta": events.ReasoningDelta,
    "attempt_reset": events.AttemptReset,
    "tool_started": events.ToolStarted,
    "tool_progress": events.ToolProgress,
    "tool_completed": events.ToolCompleted,
    "code_started": events.CodeStarted,
    "code_completed": events.CodeCompleted,
    "final_value": events.FinalValue,
    "tool_value": events.ToolValue,
    "usage": events.UsageLine,
    "child_usage": events.ChildUsage,
    "input_accepted": events.InputAccepted,
    "work_started": events.WorkStarted,
    "queue_changed": events.QueueChanged,
    "process_changed": events.ProcessChanged,
    "frame_switched": events.FrameSwitched,
    "resident_changed": events.ResidentChanged,
    "committed": events.Committed,
    "gap": events.Gap,
    "snapshot": events.Snapshot,
    "message": events.MessageLine,
    "session": events.SessionLine,
    "error": events.ErrorLine,
    "warning": events.WarningLine,
    "plugin": events.Plugin,
    "heartbeat": events.Heartbeat,
}

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
