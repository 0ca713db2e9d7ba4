"""What a provider reports of its tokens, from any number of reports to disjoint buckets (contract 06 §1).

Reports of one answer are merged as they came, field by field, and only then
taken apart: a bucket that is a difference of two fields would be wrong where
an early report knows one of them and a late one both. Input excludes what was
cached, output includes reasoning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lash_cli.core.llm import StreamEvent, UsageReported
from lash_cli.core.usage import TokenUsage

#: More than any answer can cost, and few enough that the sum of a session's never overflows.
MAX_TOKENS = 10**12
#: From merged fields to buckets, and the reasoning tokens if they were reported at all.
Buckets = Callable[[Mapping[str, Any]], tuple[TokenUsage, int | None]]


class ReportedUsage:
    """The reports of one answer."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self._fields: dict[str, Any] = {}
        self.usage = TokenUsage()
        self.reasoning_tokens: int | None = None

    def take(self, report: Any) -> list[StreamEvent]:
        """Add a report; what is none, or says nothing, shows nothing."""
        if not isinstance(report, dict):
            return []
        for name, value in report.items():
            if isinstance(value, dict):
                known = self._fields.get(name)
                self._fields[name] = within = dict(known) if isinstance(known, dict) else {}
                for inner, count in value.items():
                    _overlay(within, inner, count)
            else:
                _overlay(self._fields, name, value)
        self.usage, self.reasoning_tokens = self._buckets(self._fields)
        return [UsageReported(self.usage)] if self.usage.total else []


def openai_usage(fields: Mapping[str, Any]) -> tuple[TokenUsage, int | None]:
    """The buckets of a `usage` of both OpenAI wires.

    Some servers count reasoning beside the output instead of in it. Their sum
    says so, and so does a reasoning that is more than all of the output.
    """
    prompt_details = _object(fields, "prompt_tokens_details") or _object(fields, "input_tokens_details")
    output_details = _object(fields, "completion_tokens_details") or _object(fields, "output_tokens_details")
    read = (
        _count(prompt_details, "cached_tokens")
        or _count(fields, "cached_tokens")
        or _count(fields, "prompt_cache_hit_tokens")
        or 0
    )
    write = _count(prompt_details, "cache_write_tokens") or _count(fields, "cache_write_tokens") or 0
    prompt = _count(fields, "prompt_tokens") or _count(fields, "input_tokens") or 0
    output = _count(fields, "completion_tokens") or _count(fields, "output_tokens") or 0
    reasoning = _count(fields, "reasoning_tokens")
    if reasoning is None:
        reasoning = _count(output_details, "reasoning_tokens")
    thought = reasoning or 0
    if thought > output or (thought and _count(fields, "total_tokens") == prompt + output + thought):
        output += thought
    return TokenUsage(max(0, prompt - read - write), output, read, write, thought), reasoning


def anthropic_usage(fields: Mapping[str, Any]) -> tuple[TokenUsage, int | None]:
    """The buckets of a `usage` of Anthropic, which are disjoint as they come."""
    reasoning = _count(_object(fields, "output_tokens_details"), "thinking_tokens")
    usage = TokenUsage(
        input_tokens=_count(fields, "input_tokens") or 0,
        output_tokens=_count(fields, "output_tokens") or 0,
        cache_read_input_tokens=_count(fields, "cache_read_input_tokens") or 0,
        cache_write_input_tokens=_count(fields, "cache_creation_input_tokens") or 0,
        reasoning_output_tokens=reasoning or 0,
    )
    return usage, reasoning


def google_usage(fields: Mapping[str, Any]) -> tuple[TokenUsage, int | None]:
    """The buckets of a `usageMetadata`; what a tool of the provider put into the prompt is counted beside it."""
    read = _count(fields, "cachedContentTokenCount") or 0
    prompt = (_count(fields, "promptTokenCount") or 0) + (_count(fields, "toolUsePromptTokenCount") or 0)
    thoughts = _count(fields, "thoughtsTokenCount")
    output = (_count(fields, "candidatesTokenCount") or 0) + (thoughts or 0)
    return TokenUsage(max(0, prompt - read), output, read, 0, thoughts or 0), thoughts


def _overlay(known: dict[str, Any], name: str, value: Any) -> None:
    """A later count overwrites an earlier one unless it is 0; a 0 that is the first word still says something."""
    count = _count({name: value}, name)
    if count or (count is not None and name not in known):
        known[name] = count


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _count(fields: Mapping[str, Any], name: str) -> int | None:
    """A number of tokens, None for what is none: a server that counted below 0 without a sign says 2^64 - 1."""
    value = fields.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MAX_TOKENS else None
