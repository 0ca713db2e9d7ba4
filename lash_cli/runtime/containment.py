"""The containment point of tools: whatever a tool does, its call has a result that can be kept (contract 05 §1.3, 3.6).

A result is JSON that the journal, the transcript and every document about them can hold: no number that is none, not
nested without end, not larger than any model reads. What is more than that is a failure the model is told of.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from lash_cli.core.codec import (
    MAX_WRITTEN_DEPTH,
    decode,
    described,
    encode,
    has_non_number,
    is_nested_deeper,
    reread,
    to_builtins,
)
from lash_cli.core.protocols import PreparesCalls, RunsGrantedCalls
from lash_cli.core.tools import (
    FailureClass,
    PendingCompletion,
    ToolCall,
    ToolCallOutput,
    ToolResult,
    failure,
    project_output,
)
from lash_cli.tools.context import SimpleToolContext
from lash_cli.tools.faults import ToolFault
from lash_cli.tools.registry import ResolvedTool

_log = logging.getLogger("lash.dispatch")

# What a result may add to a transcript, attachments not counted: no model reads as much, and a turn has to be kept.
MAX_RESULT_CHARS = 8 * 1024 * 1024
# An output is so many levels around the value of a result.
_OUTPUT_LEVELS = 2


def lent(call: ToolCall) -> ToolCall:
    """A call for who may write over its arguments: whoever comes behind him, the journal and the next attempt among
    them, has it as it was."""
    return msgspec.structs.replace(
        call, args=to_builtins(call.args), prepared_payload=to_builtins(call.prepared_payload)
    )


async def contained(
    resolved: ResolvedTool, call: ToolCall, context: SimpleToolContext, *, is_strict: bool = False
) -> ToolResult:
    """Run one attempt; an exception, or an answer that is no result, becomes a failed output. With `is_strict` an
    exception passes through."""
    try:
        output = await _answer(resolved, call, context)
        if isinstance(output, PendingCompletion):
            return decode(encode(output), PendingCompletion)
        if not isinstance(output, ToolCallOutput):
            return _panicked(call.tool_name, f"TypeError: it answered {type(output).__name__}, no ToolCallOutput")
        return kept_output(call.tool_name, output)
    except asyncio.CancelledError:
        return _panicked(call.tool_name, "CancelledError: the tool cancelled itself")
    except Exception as error:
        if is_strict:
            raise
        # Contract 05 §3.6: a tool must not take the turn down.
        _log.exception("tool %s raised", call.tool_name)
        return _panicked(call.tool_name, described(error))


async def prepared(
    resolved: ResolvedTool, call: ToolCall, context: SimpleToolContext, *, is_strict: bool = False
) -> ToolCall | ToolCallOutput:
    """Have the source of a tool ready a call, as the journal will have it; an exception, or an answer that is of no
    use, becomes a failed output (contract 05 §3.1 step 5). With `is_strict` an exception passes through."""
    try:
        answer = await _preparation(resolved, call, context)
        if isinstance(answer, ToolCallOutput):
            return kept_output(call.tool_name, answer)
        if not isinstance(answer, ToolCall):
            return _panicked(call.tool_name, f"TypeError: it was readied as {type(answer).__name__}, no ToolCall")
        kept: ToolCall = reread(answer, ToolCall)
        if kept != answer and has_non_number(answer):
            return _panicked(call.tool_name, "ValueError: it was readied with NaN or Infinity, which JSON cannot hold")
    except asyncio.CancelledError:
        return _panicked(call.tool_name, "CancelledError: its preparation cancelled itself")
    except Exception as error:
        if is_strict:
            raise
        _log.exception("preparing tool %s raised", call.tool_name)
        return _panicked(call.tool_name, described(error))
    if (kept.tool_id, kept.call_id, kept.tool_name) != (call.tool_id, call.call_id, call.tool_name):
        text = f"{call.tool_name} was readied as a call of another tool, or as another call."
        return failure(FailureClass.INTERNAL, "prepared_tool_id_mismatch", text, source="runtime")
    return kept


async def _preparation(resolved: ResolvedTool, call: ToolCall, context: SimpleToolContext) -> object:
    source, grant = resolved.provider, resolved.grant
    if grant is None:
        return await source.prepare_tool_call(call, context) if isinstance(source, PreparesCalls) else call
    assert isinstance(source, RunsGrantedCalls), "the registry hands out no other source for a grant"
    return await source.prepare_granted_tool_call(grant, call, context)


async def _answer(resolved: ResolvedTool, call: ToolCall, context: SimpleToolContext) -> object:
    source, grant = resolved.provider, resolved.grant
    try:
        if grant is None:
            return await source.execute(call, context)
        assert isinstance(source, RunsGrantedCalls), "the registry hands out no other source for a grant"
        return await source.execute_granted(grant, call, context)
    except ToolFault as fault:
        return fault.to_output()


def kept_output(tool_name: str, output: ToolCallOutput) -> ToolCallOutput:
    """The output as the journal will have it, to the order of its keys: the model reads its text, and a re-drive that
    rendered another one would not be the turn that crashed. Or the failure that stands for it."""
    try:
        data = encode(output)
    except RecursionError:
        return _too_deep(tool_name)
    if is_nested_deeper(data, MAX_WRITTEN_DEPTH + _OUTPUT_LEVELS):
        return _too_deep(tool_name)
    if b"null" in data and has_non_number(output):
        # It would be read as null.
        return _panicked(tool_name, "ValueError: its result has NaN or Infinity, which JSON cannot hold")
    kept = decode(data, ToolCallOutput)
    if len(data) > MAX_RESULT_CHARS and (length := len(project_output(kept))) > MAX_RESULT_CHARS:
        return _too_large(tool_name, length)
    return kept


def _too_large(tool_name: str, length: int) -> ToolCallOutput:
    text = f"{tool_name} ran, but its result of {length} characters is more than the {MAX_RESULT_CHARS} that are kept."
    return failure(FailureClass.RESOURCE_LIMIT, "tool_result_too_large", text, source="runtime")


def _too_deep(tool_name: str) -> ToolCallOutput:
    text = f"{tool_name} ran, but its result is nested deeper than the {MAX_WRITTEN_DEPTH} levels that are kept."
    return failure(FailureClass.RESOURCE_LIMIT, "tool_result_too_large", text, source="runtime")


def _panicked(tool_name: str, what: str) -> ToolCallOutput:
    return failure(FailureClass.INTERNAL, "tool_panicked", f"{tool_name} crashed: {what}")
