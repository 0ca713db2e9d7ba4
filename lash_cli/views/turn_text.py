"""A running turn in plain lines: what `lash turn` tells beside the answer (contract 08 §6.5).

One line per event, for stderr. Everything that came from a model or a tool
passes `clean` first, which makes terminal escapes visible. `MarkdownBlocks`
cuts streaming Markdown where a block is complete, so that a terminal can print
what will not change any more.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from lash_cli.core.activity import (
    ErrorShown,
    QueuedInputAccepted,
    QueuedWorkStarted,
    RetryWait,
    ToolCallCompleted,
    ToolCallStarted,
    ToolProgress,
    TurnEvent,
)
from lash_cli.core.outcome import AssistantMessage, FinalValue, Finished, ToolValue, TurnOutcome
from lash_cli.core.tools import ToolCallOutput, ToolCancelled, ToolFailed
from lash_cli.views.safe_text import Clean, preview
from lash_cli.views.times import duration

ARGS_PREVIEW_CHARS = 120
MESSAGE_PREVIEW_CHARS = 200
# Whoever allows a call sees all of it, up to more than anybody means by one.
ASKED_CHARS = 20_000
SHOWN_DURATION_MS = 100
_STATUS_WORDS = {"success": "ok", "failure": "error", "cancelled": "cancelled"}
_SHORTEST_FENCE = 3


def status_word(output: ToolCallOutput) -> str:
    """`ok`, `error` or `cancelled`."""
    return _STATUS_WORDS[output.status]


def value_text(value: Any) -> str:
    """A value as an answer: text verbatim, anything else as compact JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def asked_text(args: Any) -> str:
    """The arguments of a call for whoever is asked to allow it: JSON on one line, with an escape for each character
    that nobody sees. Of more than `ASKED_CHARS` the beginning, the end, and how much is missing between them."""
    text = value_text(args)
    if not text.isprintable():
        text = "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)
    missing = len(text) - ASKED_CHARS
    if missing <= 0:
        return text
    return f"{text[: ASKED_CHARS // 2]} …{missing} characters not shown… {text[-(ASKED_CHARS // 2) :]}"


def answer_of(outcome: TurnOutcome) -> str | None:
    """What a finished turn answered; None for any other."""
    match outcome:
        case Finished(finish=AssistantMessage(text=text)):
            return text
        case Finished(finish=FinalValue(value=value) | ToolValue(value=value)):
            return value_text(value)
    return None


def event_line(event: TurnEvent, clean: Clean) -> str | None:
    """The stderr line of one event, None for events that have none."""
    match event:
        case ToolCallStarted(name=name, args=args):
            return f"[tool] {clean(name)} started {clean(preview(value_text(args), ARGS_PREVIEW_CHARS))}".rstrip()
        case ToolProgress(text=text):
            return f"[tool] {clean(preview(text, MESSAGE_PREVIEW_CHARS))}"
        case ToolCallCompleted():
            return _completed_line(event, clean)
        case RetryWait(wait_ms=wait_ms, attempt=attempt, max_attempts=max_attempts, reason=reason):
            return f"[retry] in {duration(wait_ms)} · attempt {attempt}/{max_attempts} · {clean(reason)}"
        case QueuedInputAccepted(input_ids=input_ids):
            return f"[input] accepted {', '.join(input_ids)}"
        case QueuedWorkStarted(batch_ids=batch_ids):
            return f"[work] started {', '.join(batch_ids)}"
        case ErrorShown(issue=issue):
            return f"[error] {clean(preview(issue.message, MESSAGE_PREVIEW_CHARS))}"
    return None


def _completed_line(event: ToolCallCompleted, clean: Clean) -> str:
    words = [f"[tool] {clean(event.name)}", status_word(event.output)]
    if event.duration_ms >= SHOWN_DURATION_MS:
        words.append(duration(event.duration_ms))
    match event.output.outcome:
        case ToolFailed(failure=failure):
            words.append(clean(preview(failure.message, MESSAGE_PREVIEW_CHARS)))
        case ToolCancelled(cancellation=cancellation):
            words.append(clean(preview(cancellation.message, MESSAGE_PREVIEW_CHARS)))
    return " · ".join(words)


class MarkdownBlocks:
    """Cuts a growing Markdown text into blocks that are complete and a tail that may still change.

    A block ends at a blank line outside of a code fence, which ends as it
    began: at the same marks, as many or more, and nothing else. Every line is
    looked at once, however small the pieces and however long the block.
    """

    def __init__(self) -> None:
        self._text = ""
        self._judged = 0  # where the first line begins that was not complete yet
        self._fence: str | None = None
        self._is_blank = True  # nothing but blank lines among those judged since the last cut

    @property
    def tail(self) -> str:
        """What was fed and is not settled yet."""
        return self._text

    def feed(self, delta: str) -> str:
        """Add `delta`; returns the newly settled text, "" when no block was completed."""
        self._text += delta
        cut = self._judge_lines()
        settled, self._text = self._text[:cut], self._text[cut:]
        self._judged -= cut
        return settled

    def finish(self) -> str:
        """The tail, which is settled now."""
        settled, self._text = self._text, ""
        self._judged, self._fence, self._is_blank = 0, None, True
        return settled

    def _judge_lines(self) -> int:
        """Look at the lines that are complete now; where the last complete block ends, 0 when none does."""
        cut = 0
        while (end := self._text.find("\n", self._judged)) >= 0:
            line = self._text[self._judged : end].strip()
            self._judged = end + 1
            if self._fence is not None:
                is_end = line.startswith(self._fence) and not line.strip(self._fence[0])
                self._fence = None if is_end else self._fence
            elif line:
                self._fence = _fence_begun_by(line)
                self._is_blank = False
            elif not self._is_blank:
                cut, self._is_blank = self._judged, True
        return cut


def _fence_begun_by(line: str) -> str | None:
    """The marks of a code fence that a stripped line begins, None if it begins none: backticks that are there again
    further on stand around words."""
    rest = line.lstrip(line[0])
    is_fence = line[0] in "`~" and len(line) - len(rest) >= _SHORTEST_FENCE
    return line[: len(line) - len(rest)] if is_fence and not (line[0] == "`" and "`" in rest) else None
