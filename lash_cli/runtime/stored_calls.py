"""The tool calls of a turn that is committed, put together again from what is stored (contract 01 §7).

A committed turn keeps its calls and what the model was told of them, in its
messages. The whole outputs stand in its journal for as long as that is kept:
`gc` takes it (design D5), and then the model's view of them is what is left.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lash_cli.core.codec import decode
from lash_cli.core.content import AttachmentPart, AttachmentSource, Message, TextPart, ToolCallPart, ToolResultPart
from lash_cli.core.effect import (
    AwaitEventCommand,
    EffectEnvelope,
    ToolAttemptCommand,
    ToolAttemptOutcome,
    ToolHookCommand,
    ToolHookOutcome,
    TurnScope,
    ValueOutcome,
    child_replay_key,
    scope_key,
)
from lash_cli.core.machine_rules import attachments_label, record_of
from lash_cli.core.machine_tail import is_own_message_id
from lash_cli.core.tools import PendingCompletion, ToolCallOutput, ToolCallRecord, exhausted, output_as_told
from lash_cli.effects.host import decode_outcome, resolution_of
from lash_cli.errors import StoreUnusable
from lash_cli.store.base import RuntimePersistence


class _Attempts(msgspec.Struct):
    """What the journal says of the attempts of one call: how long all took, how many its tool allows, and what the last
    one, recorded under `key`, produced or left pending."""

    duration_ms: int = 0
    last: int = 0
    most: int = 1
    key: str = ""
    tool: str = ""
    pending: PendingCompletion | None = None
    output: ToolCallOutput | None = None


async def stored_calls(
    store: RuntimePersistence, session_id: str, turn_id: str, messages: Sequence[Message]
) -> tuple[ToolCallRecord, ...]:
    """The records of the calls that a turn with these `messages` made, in order.

    An output that the journal does not hold is what the model was told of it: of a value its text, of a failure its
    message, in the class and with the code of a tool that says nothing more precise, after 0 ms. Raises
    `StoreUnusable` for a journal that does not decode.
    """
    own = [message for message in messages if is_own_message_id(turn_id, message.id)]
    told = _told(own)
    if not told:
        return ()
    attempts = await _journalled(store, TurnScope(session_id, turn_id))
    records: list[ToolCallRecord] = []
    for message in own:
        for call in message.parts:
            if isinstance(call, ToolCallPart) and call.tool_call_id in told:
                record = record_of(call, told[call.tool_call_id])
                known = attempts.get(call.tool_call_id)
                records.append(record if known is None else _with_known(record, known))
    return tuple(records)


def _with_known(record: ToolCallRecord, known: _Attempts) -> ToolCallRecord:
    """The record as the journal knows it. An attempt that ended another way than its call is not what was told: the
    call was cancelled while it waited for the next attempt."""
    is_told = known.output is not None and known.output.status == record.output.status
    output = known.output if is_told and known.output is not None else record.output
    return msgspec.structs.replace(record, output=output, duration_ms=known.duration_ms)


def _told(messages: Sequence[Message]) -> dict[str, ToolCallOutput]:
    """By call id what the model was told, with the attachments that stand behind the results of a batch."""
    results: dict[str, ToolResultPart] = {}
    attached: dict[str, tuple[AttachmentSource, ...]] = {}
    for message in messages:
        answered = [part for part in message.parts if isinstance(part, ToolResultPart)]
        results.update((part.tool_call_id, part) for part in answered)
        labels = {attachments_label(part.tool_name, part.tool_call_id): part.tool_call_id for part in answered}
        owner: str | None = None
        for part in message.parts:
            if isinstance(part, TextPart):
                owner = labels.get(part.content, owner)
            elif isinstance(part, AttachmentPart) and owner is not None:
                attached[owner] = (*attached.get(owner, ()), part.attachment)
    return {
        call_id: output_as_told(part.status, part.content, attached.get(call_id, ()))
        for call_id, part in results.items()
    }


async def _journalled(store: RuntimePersistence, scope: TurnScope) -> dict[str, _Attempts]:
    """By call id what the journal of a turn holds of its attempts, of what completed them from outside, and of what
    hooks made of them; empty when it is gone."""
    waits: dict[str, ValueOutcome] = {}
    calls: dict[str, _Attempts] = {}
    instead: dict[str, ToolCallOutput] = {}
    for row in await store.journal_rows(scope_key(scope)):
        if row.status != "completed" or row.outcome is None:
            continue
        try:
            command = decode(row.envelope.json, EffectEnvelope).command
            outcome = decode_outcome(row.outcome, command)
        except msgspec.DecodeError as error:
            raise StoreUnusable(f"the journal row {row.replay_key} does not decode") from error
        if isinstance(command, ToolAttemptCommand) and isinstance(outcome, ToolAttemptOutcome):
            known = calls.setdefault(command.call.call_id, _Attempts())
            known.duration_ms += outcome.duration_ms
            if command.attempt > known.last:
                known.last, known.most = command.attempt, command.max_attempts
                known.key, known.tool = row.replay_key, command.call.tool_name
                known.output, known.pending = outcome.output, outcome.pending
        elif isinstance(command, AwaitEventCommand) and isinstance(outcome, ValueOutcome):
            waits[row.replay_key] = outcome
        elif isinstance(command, ToolHookCommand) and isinstance(outcome, ToolHookOutcome):
            if outcome.output is not None and command.point == "before":
                calls[command.call_id] = _Attempts(output=outcome.output)
            elif outcome.output is not None:
                instead[row.replay_key] = outcome.output
    for known in calls.values():
        wait = waits.get(child_replay_key(known.key, "await"))
        if known.pending is not None and wait is not None:
            known.output = _completed(known.tool, wait, known.pending)
        known.output = instead.get(child_replay_key(known.key, "after"), known.output)
        if known.output is not None and known.last == known.most:
            known.output = exhausted(known.output, known.last)
    return calls


def _completed(tool: str, wait: ValueOutcome, pending: PendingCompletion) -> ToolCallOutput | None:
    from lash_cli.runtime.pending import completed  # few calls are completed from outside

    resolution = resolution_of(wait)
    return None if resolution is None else completed(tool, resolution, pending)
