"""What hooks of tool calls may ask for, and how what several ask for is composed (contract 05 §4.4).

Before a call its hooks decide in a lattice, `abort > failed or cancelled answer
> successful answer > run`: the strictest wins whoever was asked first, so that
no later hook undoes what a guard decided, and no earlier one hides from it what
the tool will get. Everything here is a function of what the hooks answered;
asking them, and remembering it, is the runtime's matter.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from enum import IntEnum
from typing import Any, Literal

import msgspec

from lash_cli.core.activity import PluginCustom, PluginRuntime, PluginStatus
from lash_cli.core.codec import Record, encode
from lash_cli.core.content import Message, PluginOrigin, Role, TextPart
from lash_cli.core.tools import FailureClass, ToolCallOutput, ToolManifest, failure

HookPoint = Literal["before_tool_call", "after_tool_call"]
BEFORE: HookPoint = "before_tool_call"
AFTER: HookPoint = "after_tool_call"
BEFORE_CONFLICT = "before_tool_call_replacement_conflict"
AFTER_CONFLICT = "after_tool_call_replacement_conflict"


class AbortTurn(Record, tag="abort_turn", tag_field="type"):
    """Fail the call, which does not stop the turn: the model reads `message` as its result (`tool_error`)."""

    code: str
    message: str


class ReplaceToolArgs(Record, tag="replace_tool_args", tag_field="type"):
    """Have the tool called with other arguments, a JSON object that is validated like that of the model; before a call
    only."""

    args: dict[str, Any]


class ShortCircuitTool(Record, tag="short_circuit_tool", tag_field="type"):
    """Let `output` be the result: before a call instead of making it, after a call instead of what the tool said."""

    output: ToolCallOutput


class PluginMessage(Record):
    """A text that a hook adds to the conversation, as the user's or the system's; it says who added it (`origin`)."""

    role: Literal["user", "system"]
    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("a message needs a text")


class EnqueueMessages(Record, tag="enqueue_messages", tag_field="type"):
    """Have the model read messages behind the results of the batch; after a call only. A turn that ends with the batch,
    because a tool asked for that or it was cancelled, goes without them."""

    messages: tuple[PluginMessage, ...]


class EmitRuntimeEvents(Record, tag="emit_runtime_events", tag_field="type"):
    """Show something to whoever watches the turn, stamped with the hook's id."""

    events: tuple[PluginStatus | PluginCustom, ...]


class EmitTrace(Record, tag="emit_trace", tag_field="type"):
    """Write a trace record named `plugin.{hook id}.{name}`, if the core has a tracer; `payload` is any JSON."""

    name: str
    payload: Any = None


BeforeToolDirective = AbortTurn | ReplaceToolArgs | ShortCircuitTool | EmitRuntimeEvents | EmitTrace
AfterToolDirective = AbortTurn | ShortCircuitTool | EnqueueMessages | EmitRuntimeEvents | EmitTrace


class BeforeToolCall(msgspec.Struct, frozen=True):
    """What a hook learns of a call that is about to be made (contract 05 §4.3).

    `args` is the JSON the model asked for, not yet validated, or the text it
    sent where that is no JSON; or what an earlier hook put in its place. With
    `is_inspection` the hook had been asked about other arguments, and only a
    refusal of these counts: a failed or cancelled `ShortCircuitTool`, or
    `AbortTurn`.
    """

    session_id: str
    turn_id: str
    call_id: str
    manifest: ToolManifest
    args: Any
    is_inspection: bool = False

    @property
    def tool_id(self) -> str:
        """The identity of the tool."""
        return self.manifest.id

    @property
    def tool_name(self) -> str:
        """The name the model knows the tool by."""
        return self.manifest.name


class AfterToolCall(msgspec.Struct, frozen=True):
    """What a hook learns of an attempt that is over (contract 05 §4.3): the arguments it was made with, what came of it
    and how long it took. Attachments are references by then."""

    session_id: str
    turn_id: str
    call_id: str
    tool_id: str
    tool_name: str
    args: dict[str, Any]
    output: ToolCallOutput
    duration_ms: int
    attempt: int = 1


class ToolProjection(msgspec.Struct, frozen=True):
    """A finished call whose result is about to be shown to the model (contract 05 §1.4). `text` is what it reads unless
    the projector says otherwise; attachments follow it either way."""

    session_id: str
    turn_id: str
    call_id: str
    tool_name: str
    args: Any
    output: ToolCallOutput
    text: str


class DirectiveConflict(Record):
    """Two hooks asked for what cannot both be: what `winner` asked for happens, what `ignored` asked for does not."""

    point: HookPoint
    winner: str
    winner_directive: str
    ignored: str
    ignored_directive: str
    code: str | None = None


class ToolHookVerdict(msgspec.Struct, frozen=True):
    """What the hooks of one point come to. `args` are the arguments put in place of those of the model, `output` the
    result put in place of the call or of its answer; None where there is none."""

    args: dict[str, Any] | None = None
    output: ToolCallOutput | None = None
    messages: tuple[Message, ...] = ()
    events: tuple[PluginRuntime, ...] = ()
    traces: tuple[EmitTrace, ...] = ()
    conflicts: tuple[DirectiveConflict, ...] = ()


class HookQuestion(msgspec.Struct, frozen=True):
    """Ask the hook at `index` about these arguments."""

    index: int
    args: Any
    is_inspection: bool = False


class ForbiddenDirective(ValueError):
    """A hook answered with what has no place at its point; the text names it."""

    def __init__(self, point: HookPoint, hook_id: str, directive: object) -> None:
        super().__init__(f"{_kind(directive)} is no directive of {point}")
        self.hook_id = hook_id


class _Strictness(IntEnum):
    ANSWERED = 1
    REFUSED = 2
    ABORTED = 3


class _Decision(msgspec.Struct, frozen=True):
    strictness: _Strictness
    hook_id: str
    output: ToolCallOutput
    directive: str


def before_verdict(hook_ids: Sequence[str], args: Any) -> Generator[HookQuestion, Sequence[object], ToolHookVerdict]:
    """Compose what the hooks ask for before a call: a generator that yields whom to ask and is sent the directives of
    its answer, and returns the verdict.

    Hooks are asked in order. The first replacement of the arguments holds from
    then on, and whoever was asked about the old ones is asked once more; a
    second one makes the call fail, since nobody could say which of them its
    hooks agreed to. A replacement by equal arguments is none. Ties go to the
    hook whose id is first in order. Raises `ForbiddenDirective`.
    """
    fold = _Fold(BEFORE)
    replacer: str | None = None
    for index, hook_id in enumerate(hook_ids):
        is_replaced = False
        for directive in (yield HookQuestion(index, args)):
            if not isinstance(directive, ReplaceToolArgs):
                fold.take(hook_id, directive)
            elif _differ(args, directive.args):
                if replacer is None:
                    args, replacer, is_replaced = directive.args, hook_id, True
                else:
                    fold.refuse_second(hook_id, replacer)
        for earlier in range(index if is_replaced else 0):
            for directive in (yield HookQuestion(earlier, args, is_inspection=True)):
                if isinstance(directive, ReplaceToolArgs):
                    if _differ(args, directive.args):
                        fold.refuse_second(hook_ids[earlier], hook_id)
                else:
                    fold.inspect(hook_ids[earlier], directive)
    return fold.verdict(None if replacer is None else args)


def after_verdict(answers: Sequence[tuple[str, Sequence[object]]]) -> ToolHookVerdict:
    """Compose what the hooks ask for after a call, each of which saw the same result: hook ids with their directives,
    in the order they were asked.

    The strictest replacement wins, of equally strict ones the first. Raises `ForbiddenDirective`.
    """
    fold = _Fold(AFTER)
    for hook_id, directives in answers:
        for directive in directives:
            fold.take(hook_id, directive)
    return fold.verdict(None)


def hook_failure(point: HookPoint, hook_id: str, text: str) -> ToolCallOutput:
    """The result of a call one of whose hooks failed: nobody may assume what it would have decided."""
    message = f"The {point} hook {hook_id} failed: {text}"
    return failure(FailureClass.INTERNAL, f"{point}_failed", message, source="plugin")


class _Fold:
    """What the directives taken in so far come to."""

    def __init__(self, point: HookPoint) -> None:
        self._point = point
        self._standing: _Decision | None = None
        self._messages: list[Message] = []
        self._events: list[PluginRuntime] = []
        self._traces: list[EmitTrace] = []
        self._conflicts: list[DirectiveConflict] = []

    def take(self, hook_id: str, directive: object) -> None:
        """Take in one directive; raises `ForbiddenDirective`."""
        match directive:
            case AbortTurn() | ShortCircuitTool():
                self._decide(_decision(hook_id, directive))
            case EnqueueMessages(messages=messages) if self._point == AFTER:
                origin = PluginOrigin(hook_id)
                self._messages += [
                    Message("", Role(message.role), (TextPart(message.text),), origin) for message in messages
                ]
            case EmitRuntimeEvents(events=events):
                self._events += [PluginRuntime(hook_id, event) for event in events]
            case EmitTrace(name=name, payload=payload):
                self._traces.append(EmitTrace(f"plugin.{hook_id}.{name}", payload))
            case _:
                raise ForbiddenDirective(self._point, hook_id, directive)

    def inspect(self, hook_id: str, directive: object) -> None:
        """Take in a directive of a hook that is asked again: only a refusal counts, what it did it has done."""
        match directive:
            case AbortTurn() | ShortCircuitTool():
                decision = _decision(hook_id, directive)
                if decision.strictness is not _Strictness.ANSWERED:
                    self._decide(decision)
            case EmitRuntimeEvents() | EmitTrace():
                return
            case _:
                raise ForbiddenDirective(self._point, hook_id, directive)

    def refuse_second(self, hook_id: str, first: str) -> None:
        """A second replacement of the arguments, after that of `first`: the call fails, unless something stricter."""
        text = f"The hooks {first} and {hook_id} both put other arguments in place of those of the call."
        output = failure(FailureClass.INTERNAL, BEFORE_CONFLICT, text, source="plugin")
        self._conflicts.append(
            DirectiveConflict(self._point, first, "replace_tool_args", hook_id, "replace_tool_args", BEFORE_CONFLICT)
        )
        self._settle(_Decision(_Strictness.REFUSED, hook_id, output, "replace_tool_args"))

    def verdict(self, args: Any) -> ToolHookVerdict:
        """What it all comes to."""
        output = None if self._standing is None else self._standing.output
        return ToolHookVerdict(
            args, output, tuple(self._messages), tuple(self._events), tuple(self._traces), tuple(self._conflicts)
        )

    def _decide(self, decision: _Decision) -> None:
        before = self._standing
        self._settle(decision)
        if before is None or before.hook_id == decision.hook_id:
            return
        won, lost = (decision, before) if self._standing is decision else (before, decision)
        is_second = self._point == AFTER and won.directive == lost.directive == "short_circuit_tool"
        code = AFTER_CONFLICT if is_second else None
        self._conflicts.append(
            DirectiveConflict(self._point, won.hook_id, won.directive, lost.hook_id, lost.directive, code)
        )

    def _settle(self, decision: _Decision) -> None:
        standing = self._standing
        if (
            standing is None
            or decision.strictness > standing.strictness
            or (
                self._point == BEFORE
                and decision.strictness == standing.strictness
                and decision.hook_id < standing.hook_id
            )
        ):
            self._standing = decision


def _decision(hook_id: str, directive: AbortTurn | ShortCircuitTool) -> _Decision:
    match directive:
        case AbortTurn(code=code, message=message):
            raw = {"code": code, "hook": hook_id}
            output = failure(FailureClass.EXECUTION, "tool_error", message, source="plugin", raw=raw)
            return _Decision(_Strictness.ABORTED, hook_id, output, "abort_turn")
        case ShortCircuitTool(output=output):
            strictness = _Strictness.ANSWERED if output.status == "success" else _Strictness.REFUSED
            return _Decision(strictness, hook_id, output, "short_circuit_tool")


def _differ(args: Any, others: dict[str, Any]) -> bool:
    """Whether they are not the same JSON, in which 1 is not true."""
    return bool(encode(args) != encode(others))


def _kind(directive: object) -> str:
    config = getattr(directive, "__struct_config__", None)
    return config.tag if config is not None and isinstance(config.tag, str) else type(directive).__name__
