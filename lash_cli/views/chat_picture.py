"""The running turn of a chat: events go in, settled blocks and the lines that still change come out (contract 08 §7.1).

Pure. A block is given out once and never taken back, so it may go to the
scrollback; what still grows stands in `lines` until it is complete. A retry
removes the growing text before it gets there. Of a turn whose beginning was
not seen nothing is given out before its end, when the whole answer is known.
Why a turn stopped is for whoever knows what can be done about it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from lash_cli.core.activity import (
    AssistantProseDelta,
    ErrorShown,
    ModelAttemptReset,
    ModelRequestStarted,
    ReasoningShown,
    RetryWait,
    ToolCallCompleted,
    ToolCallStarted,
    ToolProgress,
    TurnActivity,
    TurnFinished,
    TurnStarted,
)
from lash_cli.core.outcome import Stopped, TurnOutcome
from lash_cli.core.tools import ToolCancelled, ToolFailed
from lash_cli.views.answer import CUT_OFF_LINE, WITHOUT_A_WORD
from lash_cli.views.safe_text import Clean, preview
from lash_cli.views.times import duration
from lash_cli.views.turn_text import MarkdownBlocks, answer_of, event_line, status_word, value_text

ARGS_CHARS = 60
PROGRESS_CHARS = 60

BlockKind = Literal["user", "assistant", "tool", "note", "error"]


class Block(NamedTuple):
    """Something settled. `continues` says that the block before it was of the same speaker and message."""

    kind: BlockKind
    text: str
    continues: bool = False


class _Tool:
    __slots__ = ("at_ms", "said", "what")

    def __init__(self, what: str, at_ms: int) -> None:
        self.what = what
        self.at_ms = at_ms
        self.said = ""


class ChatPicture:
    """What a turn shows; one object serves the turns of a session one after another."""

    def __init__(self, clean: Clean) -> None:
        self._clean = clean
        self._turn_id: str | None = None
        self._is_whole = False
        self._markdown = MarkdownBlocks()
        self._call_text = ""
        self._continues = False
        self._reasoning = ""
        self._tools: dict[str, _Tool] = {}
        self.step: int | None = None

    def fold(self, activity: TurnActivity) -> list[Block]:
        """Take one event of a turn; what it settled."""
        event = activity.event
        if activity.turn_id != self._turn_id:
            self._begin(activity.turn_id, is_whole=isinstance(event, TurnStarted))
        match event:
            case TurnStarted():
                self._begin(activity.turn_id, is_whole=True)
            case AssistantProseDelta(text=text):
                self._reasoning = ""
                self._call_text += text
                settled = self._markdown.feed(self._clean(text)) if self._is_whole else ""
                return self._said(settled)
            case ReasoningShown(text=text):
                self._reasoning += text
            case ModelAttemptReset():
                return self._retracted(event)
            case ModelRequestStarted(protocol_iteration=iteration):
                before = self._settled()
                self.step, self._call_text, self._continues = iteration + 1, "", False
                return before
            case ToolCallStarted(call_id=call_id, name=name, args=args):
                what = f"{self._clean(name)}  {self._clean(preview(value_text(args), ARGS_CHARS))}"
                self._tools[call_id] = _Tool(what.rstrip(), activity.at_ms)
                return self._settled()
            case ToolProgress(call_id=call_id, text=text) if call_id in self._tools:
                self._tools[call_id].said = self._clean(preview(text, PROGRESS_CHARS))
            case ToolCallCompleted(call_id=call_id):
                self._tools.pop(call_id, None)
                return [*self._settled(), Block("tool", self._completed(event))]
            case RetryWait():
                return [Block("note", event_line(event, self._clean) or "")]
            case ErrorShown(issue=issue) if not issue.blocking:
                return [*self._settled(), Block("error", self._clean(issue.message))]
            case TurnFinished(outcome=outcome):
                return self._ended(outcome)
        return []

    def forget(self) -> None:
        """Events were missed: what still grows is void, and the rest of this turn is known in part only."""
        self._begin(self._turn_id, is_whole=False)

    def _begin(self, turn_id: str | None, *, is_whole: bool) -> None:
        self._turn_id, self._is_whole = turn_id, is_whole
        self._markdown.finish()
        self._call_text, self._reasoning, self._continues = "", "", False
        self._tools.clear()
        self.step = None

    def _said(self, settled: str) -> list[Block]:
        if not settled.strip():
            return []
        block = Block("assistant", settled.strip("\n"), self._continues)
        self._continues = True
        return [block]

    def _settled(self) -> list[Block]:
        self._reasoning = ""
        return self._said(self._markdown.finish())

    def _retracted(self, event: ModelAttemptReset) -> list[Block]:
        self._reasoning = ""
        if not event.assistant_prose_correlation_ids:
            return []
        is_out = self._continues
        self._markdown.finish()
        self._call_text, self._continues = "", False
        return [Block("note", CUT_OFF_LINE)] if is_out else []

    def _completed(self, event: ToolCallCompleted) -> str:
        args = self._clean(preview(value_text(event.args), ARGS_CHARS))
        name, _, ended = (event_line(event, self._clean) or "").removeprefix("[tool] ").partition(" · ")
        took = "" if duration(event.duration_ms) in ended else f" · {duration(event.duration_ms)}"
        return f"{name}  {args}  {ended}{took}"

    def _ended(self, outcome: TurnOutcome) -> list[Block]:
        said = self._call_text.strip()
        blocks = self._settled()
        answer = answer_of(outcome)
        if answer is not None and not (answer.strip() or said):
            blocks.append(Block("note", WITHOUT_A_WORD))
        elif answer is not None and (answer.strip() != said or not self._is_whole):
            blocks.append(Block("assistant", self._clean(answer)))
        elif answer is None and said and not self._is_whole:
            blocks.append(Block("assistant", self._clean(said)))
        if isinstance(outcome, Stopped) and outcome.reason == "cancelled":
            blocks.append(Block("note", "turn cancelled"))
        self._begin(None, is_whole=False)
        return blocks

    def lines(self, now_ms: int, *, room: int) -> list[tuple[str, str]]:
        """Style and text of the last `room` lines that are not settled: reasoning, growing prose, running tools."""
        shown: list[tuple[str, str]] = []
        if self._reasoning:
            shown.append(("dim", preview(self._clean(self._reasoning[-400:]), 200)))
        growing = self._markdown.tail if self._is_whole else self._clean(self._call_text)
        shown += [("", line) for line in growing.rstrip("\n").split("\n")] if growing.strip() else []
        for tool in self._tools.values():
            elapsed = duration(max(0, now_ms - tool.at_ms))
            said = f"  {tool.said}" if tool.said else ""
            shown.append(("tool", f"{tool.what}  {elapsed} running{said}"))
        return shown[-max(1, room) :]


def whole_tool(event: ToolCallCompleted, clean: Clean) -> str:
    """A call that ended with all of its arguments and all of its output."""
    match event.output.outcome:
        case ToolFailed(failure=failure):
            said = failure.message
        case ToolCancelled(cancellation=cancellation):
            said = cancellation.message
        case done:
            said = value_text(done.value)
    call = f"{event.name} {value_text(event.args)}"
    return clean(f"{call}\n{status_word(event.output)} {duration(event.duration_ms)}\n{said}")
