"""One stored turn as text, its model calls and their attempts, and what a session cost (contract 06 §2, 08 §5.1).

Pure: documents go in, lines come out. What a provider says about itself passes
`clean`, because it is as foreign as anything it writes.
"""

from __future__ import annotations

from typing import Any

from lash_cli.views.counts import counted
from lash_cli.views.safe_text import Clean, preview
from lash_cli.views.session import labelled, usage_text
from lash_cli.views.times import duration
from lash_cli.views.usage import money

ANSWER_PREVIEW_CHARS = 400
ERROR_PREVIEW_CHARS = 300
METADATA_PREVIEW_CHARS = 120
_INDENT = "    "
_NOT_AGAIN = {
    "not_retryable": "not asked again: it would fail again",
    "retry_budget_exhausted": "not asked again: every attempt was used",
    "output_started_without_retry_guarantee": "not asked again: part of the answer had been shown",
}


def turn_text(turn: dict[str, Any], *, clean: Clean) -> str:
    """One stored turn."""
    outcome = turn["outcome"]
    ended = "running" if outcome is None else " ".join(filter(None, (outcome["type"], outcome["reason"])))
    rows = [f"{clean(turn['id'])}  turn {turn['index']}  {ended}", "", labelled("started", f"{turn['started_at']}")]
    if turn["duration_ms"] is not None:
        rows.append(labelled("took", duration(turn["duration_ms"])))
    if turn["usage"] is not None:
        rows.append(labelled("usage", usage_text(turn["usage"])))
    rows.append(labelled("tool calls", str(turn["tool_call_count"])))
    if turn["cancellation"]:
        evidence = turn["cancellation"]
        rows.append(
            labelled("cancelled", clean(f"{evidence['origin'] or 'unknown'}: {evidence['reason'] or 'no reason'}"))
        )
    rows.extend(labelled("error", clean(issue["message"])) for issue in turn["errors"])
    if turn["text"]:
        rows.append(labelled("answer", clean(preview(turn["text"], ANSWER_PREVIEW_CHARS))))
    rows.extend(calls_text(turn["model_calls"], clean=clean))
    return "\n".join(rows)


def calls_text(calls: list[dict[str, Any]], *, clean: Clean) -> list[str]:
    """The lines of a turn's model calls: each call, its attempts, what they cost and what followed a failure."""
    if not calls:
        return []
    lines = [labelled("model calls", f"{len(calls)} ({counted(sum(len(c['attempts']) for c in calls), 'attempt')})")]
    for number, call in enumerate(calls, 1):
        lines.append(f"  {number}  {clean(call['call_id'])}  {usage_text(call['usage'])}")
        for attempt in call["attempts"]:
            lines.extend(_attempt_lines(attempt, clean))
    return lines


def usage_report_text(document: dict[str, Any], *, clean: Clean) -> str:
    """The text of a SessionUsage document."""
    attempts = document["attempts"]
    lines = [
        f"{clean(document['session_name'])}  {document['session']}",
        "",
        labelled("total", usage_text(document)),
    ]
    if document["cost_micros"] is not None:
        cost = money(document["cost_micros"], document["currency"], is_estimate=document["cost_is_estimate"])
        lines.append(labelled("cost", cost))
    for entry in document["by_source_model"]:
        lines.append(labelled("", f"{clean(entry['source'])} / {clean(entry['model'])}: {usage_text(entry)}"))
    lines.append(labelled("turns", str(document["turns"])))
    lines.append(labelled("model calls", f"{attempts['calls']} ({_attempts(attempts)})"))
    if attempts["unanswered_usage"]["total_tokens"]:
        lines.append(labelled("no answer", f"{usage_text(attempts['unanswered_usage'])}, part of the total"))
    if attempts["retry_wait_ms"]:
        lines.append(labelled("waited", f"{duration(attempts['retry_wait_ms'])} before attempts after failures"))
    for served in attempts["served"]:
        name = "not told" if served["model"] is None else clean(served["model"])
        lines.append(labelled("served by", f"{name}: {counted(served['attempts'], 'attempt')}, {usage_text(served)}"))
    return "\n".join(lines)


def _attempts(attempts: dict[str, Any]) -> str:
    """`7 attempts: 2 failed, 1 aborted`."""
    rest = [f"{attempts[word]} {word}" for word in ("failed", "aborted", "interrupted") if attempts[word]]
    return counted(attempts["attempts"], "attempt") + (f": {', '.join(rest)}" if rest else "")


def _attempt_lines(attempt: dict[str, Any], clean: Clean) -> list[str]:
    head = f"{_INDENT}{attempt['ordinal']}  {attempt['outcome']} after {duration(attempt['duration_ms'])}"
    if attempt["outcome"] != "completed":
        head += f" at {attempt['protocol_position']}"
    if attempt["usage"]["total_tokens"]:
        head += f"  {usage_text(attempt['usage'])}"
    lines = [head]
    told = [
        (word, attempt[key])
        for word, key in (
            ("served by", "served_model"),
            ("finish", "finish_reason"),
            ("response", "response_id"),
            ("request", "request_id"),
        )
        if attempt[key] is not None
    ]
    if told:
        lines.append(f"{_INDENT}   {clean('  '.join(f'{word} {value}' for word, value in told))}")
    for entry, value in attempt["response_metadata"].items():
        lines.append(f"{_INDENT}   {clean(preview(f'{entry} = {value}', METADATA_PREVIEW_CHARS))}")
    error, retry = attempt["error"], attempt["retry"]
    if error is not None:
        code = error["code"] or error["kind"]
        lines.append(f"{_INDENT}   {clean(preview(f'{code}: ' + error['message'], ERROR_PREVIEW_CHARS))}")
    if retry is not None and retry["scheduled"]:
        budget = "" if attempt["retry_budget_consumed"] else ", as the provider asked, without using an attempt"
        lines.append(f"{_INDENT}   asked again after {duration(retry['delay_ms'])}{budget}")
    elif retry is not None and retry["reason"] != "cancelled":
        lines.append(f"{_INDENT}   {clean(_NOT_AGAIN.get(retry['reason'], retry['reason']))}")
    return lines
