"""The answer of a running turn for people: on a terminal, in a pipe, or only at its end (contract 08 §6.5, §6.8).

A pipe gets the prose of a turn when the turn has finished well: what was
retracted or failed never gets there, so stdout is the answer or empty. A
terminal sees it grow: as Markdown whose complete blocks are printed once and
whose last block is redrawn, or, without redraw, as plain text. All text passes
`clean` first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from lash_cli.core.activity import (
    AssistantProseDelta,
    ModelAttemptReset,
    ModelRequestStarted,
    ToolCallStarted,
    TurnActivity,
)
from lash_cli.core.outcome import FinalValue, Finished, ToolValue, TurnResult
from lash_cli.views.safe_text import Clean, safe_json
from lash_cli.views.turn_text import MarkdownBlocks, answer_of, event_line

Tell = Callable[[str], None]
Write = Callable[[str], object]

REDRAWS_PER_SECOND = 12
#: Where nothing would look like something that went missing.
WITHOUT_A_WORD = "the model ended the turn without a word"
CUT_OFF_LINE = "[retry] the answer above was cut off and starts again"


class TurnView(Protocol):
    """Shows the one turn a command is about."""

    def show(self, activity: TurnActivity) -> None:
        """Show one activity."""
        ...

    def finish(self, result: TurnResult, *, replayed: bool) -> None:
        """Show the result of the turn; called once, after its last activity."""
        ...

    def leave(self) -> None:
        """Give the terminal back for a moment or for good; may be called at any time."""
        return


class _Told(TurnView):
    """Tells every event but prose on a line of its own. What a view does with an activity before is in `_take`."""

    def __init__(self, write: Write, tell: Tell, clean: Clean) -> None:
        self._write = write
        self._tell = tell
        self._clean = clean
        self._pieces: list[str] = []  # the prose of this model call

    def show(self, activity: TurnActivity) -> None:
        """Show one activity."""
        self._take(activity)
        line = event_line(activity.event, self._clean)
        if line is not None:
            self._note(line)

    def _take(self, activity: TurnActivity) -> None:
        """Nothing."""

    def _note(self, line: str) -> None:
        self.leave()
        self._tell(line)


def _is_json(result: TurnResult) -> bool:
    """Whether the answer is JSON text, in which an escape means the character it stands for."""
    match result.outcome:
        case Finished(finish=FinalValue(value=value) | ToolValue(value=value)):
            return not isinstance(value, str)
    return False


def as_line(text: str) -> str:
    """`text` ending with a line feed."""
    return text if text.endswith("\n") else text + "\n"


class QuietView(TurnView):
    """Shows nothing while the turn runs, and the answer at its end unless `write` is None."""

    def __init__(self, write: Write | None, clean: Clean) -> None:
        self._write = write
        self._clean = clean

    def show(self, activity: TurnActivity) -> None:
        """Nothing."""

    def finish(self, result: TurnResult, *, replayed: bool) -> None:
        """The answer."""
        answer = answer_of(result.outcome)
        if self._write is not None and answer is not None:
            self._write(as_line(self._clean(safe_json(answer) if _is_json(result) else answer)))


class ValueView(_Told):
    """A turn that is to answer with a value: events as they happen, and of the answer only the value, at its end."""

    def finish(self, result: TurnResult, *, replayed: bool) -> None:
        """The value."""
        QuietView(self._write, self._clean).finish(result, replayed=replayed)


class PipeView(_Told):
    """Text for a pipe or a file: all prose of a turn that finished, events on stderr as they happen."""

    def __init__(self, write: Write, tell: Tell, clean: Clean) -> None:
        super().__init__(write, tell, clean)
        # The pieces of prose of each model call by correlation id, in order. They are joined once, at the end: joining
        # each to what came before would cost the square of a long answer.
        self._calls: list[dict[str, list[str]]] = [{}]

    def _take(self, activity: TurnActivity) -> None:
        """Collect prose."""
        event = activity.event
        match event:
            case AssistantProseDelta(text=text):
                self._calls[-1].setdefault(activity.correlation_id, []).append(text)
            case ModelAttemptReset(assistant_prose_correlation_ids=ids):
                for correlation_id in ids:
                    self._calls[-1].pop(correlation_id, None)
            case ModelRequestStarted():
                self._calls.append({})

    def finish(self, result: TurnResult, *, replayed: bool) -> None:
        """Everything the model said, its last word being the answer; nothing for a turn that stopped."""
        if not result.is_success:
            return
        answer = answer_of(result.outcome)
        if result.has_final_value:
            self._calls = [{}]  # the prose was that value in the model's spelling, or one that did not fit
        if answer is not None:
            if _prose(self._calls[-1]).strip() == answer.strip():
                self._calls.pop()
            self._calls.append({"": [answer]})
        self.settle()

    def settle(self) -> None:
        """Write what was collected, whatever becomes of the turn."""
        for call in self._calls:
            text = _prose(call)
            if text.strip():
                self._write(as_line(self._clean(text)))
        self._calls = [{}]


def _prose(call: dict[str, list[str]]) -> str:
    """The prose of one model call."""
    return "".join(piece for pieces in call.values() for piece in pieces)


class PlainTerminalView(_Told):
    """A terminal without redraw: prose as it comes; a retracted attempt is announced, not erased."""

    def __init__(self, write: Write, tell: Tell, clean: Clean) -> None:
        super().__init__(write, tell, clean)
        self._at_line_start = True

    def _take(self, activity: TurnActivity) -> None:
        """Stream prose."""
        event = activity.event
        match event:
            case AssistantProseDelta(text=text):
                self._pieces.append(text)
                self._stream(self._clean(text))
            case ModelAttemptReset(assistant_prose_correlation_ids=ids) if ids and self._pieces:
                is_seen = any(map(str.strip, self._pieces))
                self._pieces = []
                self.leave()
                if is_seen:
                    self._tell(CUT_OFF_LINE)
            case ModelRequestStarted():
                self._pieces = []
                self.leave()

    def finish(self, result: TurnResult, *, replayed: bool) -> None:
        """What of the answer was not streamed."""
        answer = answer_of(result.outcome)
        shown = "".join(self._pieces)
        if answer is not None and answer.strip() != shown.strip():
            is_extension = bool(shown) and answer.startswith(shown)
            if not is_extension:
                self.leave()
            self._stream(self._clean(answer[len(shown) :] if is_extension else answer))
        self.leave()

    def leave(self) -> None:
        """End a line that was cut off."""
        if not self._at_line_start:
            self._stream("\n")

    def _stream(self, text: str) -> None:
        if text:
            self._write(text)
            self._at_line_start = text.endswith("\n")


class MarkdownTerminalView(_Told):
    """A terminal with redraw: complete blocks are printed once as Markdown, the growing one stands below them."""

    def __init__(self, terminal: TextIO, tell: Tell, clean: Clean, *, color: bool, width: int) -> None:
        from rich.console import Console

        super().__init__(terminal.write, tell, clean)
        self._console = Console(
            file=terminal, force_terminal=True, no_color=not color, highlight=False, width=width or None
        )
        self._blocks = MarkdownBlocks()
        self._live: Any = None
        self._drawn_at = 0.0
        self._has_block_above = False

    def _take(self, activity: TurnActivity) -> None:
        """Grow the block below; print what is settled."""
        event = activity.event
        match event:
            case AssistantProseDelta(text=text):
                self._pieces.append(text)
                self._print(self._blocks.feed(self._clean(text)))
                self._redraw()
            case ModelAttemptReset(assistant_prose_correlation_ids=ids) if ids and self._pieces:
                self._retract()
            case ModelRequestStarted():
                self._settle()
                self._pieces = []
            case ToolCallStarted():
                self._settle()

    def _note(self, line: str) -> None:
        super()._note(line)
        self._has_block_above = False

    def finish(self, result: TurnResult, *, replayed: bool) -> None:
        """Print the rest of the answer: all of it when nothing was streamed."""
        answer = answer_of(result.outcome)
        is_shown = answer is None or answer.strip() == "".join(self._pieces).strip()
        self._settle()
        if answer is not None and not is_shown:
            self._print(self._clean(answer))

    def leave(self) -> None:
        """Erase the growing block and give the cursor back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _retract(self) -> None:
        """Take back the text of a failed attempt; what was printed already can only be disowned."""
        is_printed = bool(self._clean("".join(self._pieces))[: -len(self._blocks.tail) or None].strip())
        self._blocks.finish()
        self._pieces = []
        self.leave()
        if is_printed:
            self._tell(CUT_OFF_LINE)

    def _settle(self) -> None:
        self._print(self._blocks.finish())
        self.leave()

    def _print(self, text: str) -> None:
        if text.strip():
            from rich.markdown import Markdown

            self.leave()
            if self._has_block_above:
                self._console.print()
            self._has_block_above = True
            self._console.print(Markdown(text, hyperlinks=False))

    def _redraw(self) -> None:
        now = time.monotonic()
        if now - self._drawn_at < 1 / REDRAWS_PER_SECOND or not self._blocks.tail.strip():
            return
        self._drawn_at = now
        from rich.live import Live
        from rich.text import Text

        # Only what fits can be erased again: the last lines of the growing block.
        lines = self._blocks.tail.splitlines()[-max(1, self._console.height // 2) :]
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                vertical_overflow="crop",
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._live.update(Text("\n".join(lines)), refresh=True)
