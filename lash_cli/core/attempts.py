"""What the attempts behind a session's model calls add up to (contract 06 §2, 01 §12).

Pure sums over call records. The ledger of `core.usage` is what was paid, by
source and by the model that was asked for; this is what happened for it: how
many attempts, how they ended, who really served them, and how much of the cost
bought no answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from lash_cli.core.codec import Record
from lash_cli.core.llm import LlmCallRecord
from lash_cli.core.usage import TokenUsage


class Served(Record):
    """What one model served, by its own name; None stands for attempts that never said."""

    model: str | None
    attempts: int
    usage: TokenUsage


class AttemptReport(Record):
    """`unanswered_usage` is the cost of attempts that ended without an answer; it is part of what was paid."""

    calls: int = 0
    attempts: int = 0
    completed: int = 0
    failed: int = 0
    aborted: int = 0
    interrupted: int = 0
    retry_wait_ms: int = 0
    unanswered_usage: TokenUsage = TokenUsage()
    served: tuple[Served, ...] = ()


def attempt_report(calls: Iterable[LlmCallRecord]) -> AttemptReport:
    """The report over `calls`; served models sorted by name, the unnamed last."""
    counts = {"completed": 0, "failed": 0, "aborted": 0, "interrupted": 0}
    served: dict[str | None, tuple[int, TokenUsage]] = {}
    number = waited_ms = 0
    unanswered = TokenUsage()
    for call in calls:
        number += 1
        for attempt in call.attempts:
            counts[attempt.outcome] += 1
            if attempt.outcome in ("failed", "aborted"):
                unanswered = unanswered + attempt.usage
            if attempt.retry_decision is not None and attempt.retry_decision.scheduled:
                waited_ms += attempt.retry_decision.delay_ms
            model = attempt.evidence.served_model if attempt.evidence is not None else None
            seen, usage = served.get(model, (0, TokenUsage()))
            served[model] = (seen + 1, usage + attempt.usage)
    ordered = sorted(served.items(), key=lambda entry: (entry[0] is None, entry[0] or ""))
    return AttemptReport(
        calls=number,
        attempts=sum(counts.values()),
        **counts,
        retry_wait_ms=waited_ms,
        unanswered_usage=unanswered,
        served=tuple(Served(model, seen, usage) for model, (seen, usage) in ordered),
    )
