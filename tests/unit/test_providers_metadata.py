"""The allow-list of what is kept of responses: that, and nothing else (contract 06 §2)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from support.clock import ManualCancel, ManualClock
from support.wire import Reply, ScriptedTransport, chunk, cut_reply, error_reply, json_reply, stream_reply, text_reply

from lash_cli.core.content import Message, Role, TextPart
from lash_cli.core.llm import AttemptRecord, LlmCallResult, LlmRequest, LlmScope, StreamEvent
from lash_cli.core.policy import ModelSpec
from lash_cli.errors import ConfigError
from lash_cli.providers.catalog import ProviderSettings, build_caller
from lash_cli.providers.metadata import MAX_VALUE_CHARS, parse_allow_list

KEY = "key-that-stays-ours"


async def call(*replies: Reply, allowed: tuple[str, ...], **options: Any) -> LlmCallResult:
    settings = ProviderSettings(
        "mine", "openai_chat", "http://h/v1", KEY, {"response_metadata": allowed, "jitter": 0.0, **options}
    )
    caller = build_caller(
        settings,
        clock=ManualClock(auto_advance=True),
        ids_bits=lambda _: 0,
        transport=ScriptedTransport(*replies),
    )

    async def sink(event: StreamEvent) -> None: ...

    message = Message("m", Role.USER, (TextPart("x"),))
    request = LlmRequest(model=ModelSpec("m"), messages=(message,), scope=LlmScope("s", "r"))
    return await caller.call(request, sink=sink, cancel=ManualCancel())


async def kept(reply: Reply, *allowed: str) -> dict[str, Any]:
    result = await call(reply, allowed=allowed)
    (attempt,) = result.record.attempts
    return attempt.response_metadata


def with_headers(reply: Reply, **headers: str) -> Reply:
    return replace(reply, headers=reply.headers | {name.replace("_", "-"): value for name, value in headers.items()})


async def test_only_what_is_named_is_kept() -> None:
    reply = with_headers(text_reply("hi"), x_ratelimit_remaining="12", x_other="private")
    assert await kept(reply, "header:x-ratelimit-remaining", "header:x-absent", "body:/id", "body:/nothing/here") == {
        "header:x-ratelimit-remaining": "12",
        "body:/id": "chatcmpl-1",
    }


async def test_a_pointer_reaches_into_a_whole_answer_and_into_lists() -> None:
    whole = {
        "id": "c", "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "a/b": {"~": [1, {"x": 2}]},
    }  # fmt: skip
    assert await kept(json_reply(whole), "body:/a~1b/~0/1", "body:/choices/0/finish_reason") == {
        "body:/a~1b/~0/1": {"x": 2},
        "body:/choices/0/finish_reason": "stop",
    }


async def test_the_last_value_of_a_stream_stands_however_its_bytes_are_cut() -> None:
    reply = stream_reply(chunk({"content": "h"}) | {"n": 1}, chunk({"content": "i"}) | {"n": 2}, chunk(None, "stop"))
    assert await kept(reply.dripping(), "body:/n") == {"body:/n": 2}


async def test_failed_attempts_keep_theirs_each_its_own() -> None:
    refused = with_headers(error_reply(503), x_id="one")
    result = await call(refused, with_headers(text_reply("hi"), x_id="two"), allowed=("header:x-id",))
    assert [attempt.response_metadata for attempt in result.record.attempts] == [
        {"header:x-id": "one"},
        {"header:x-id": "two"},
    ]


async def test_a_cut_stream_keeps_what_had_passed() -> None:
    result = await call(cut_reply(), allowed=("body:/model",))
    assert result.error is not None
    assert result.record.attempts[0].response_metadata == {"body:/model": "served-model"}


async def test_calls_at_the_same_time_do_not_mix() -> None:
    answers = [with_headers(text_reply("hi").dripping(), x_id=str(number)) for number in range(5)]
    results = await asyncio.gather(*(call(answer, allowed=("header:x-id",)) for answer in answers))
    found = [result.record.attempts[0].response_metadata["header:x-id"] for result in results]
    assert found == ["0", "1", "2", "3", "4"]


async def test_a_value_holds_no_key_and_is_not_large() -> None:
    reply = with_headers(text_reply("hi"), x_echo=f"you sent {KEY}", x_long="a" * (MAX_VALUE_CHARS + 1))
    assert await kept(reply, "header:x-echo", "header:x-long") == {"header:x-echo": "you sent [redacted]"}


async def test_nothing_is_kept_where_nothing_is_asked_for() -> None:
    result = await call(text_reply("hi"), allowed=())
    assert result.record.attempts[0] == AttemptRecord(
        1,
        1_700_000_000_000,
        0,
        evidence=result.record.attempts[0].evidence,
        usage=result.record.usage,
    )


@pytest.mark.parametrize("entry", ["x-id", "header:", "header:X-Id", "body:id", "header:a b", "header:set-cookie"])
async def test_an_entry_that_is_none_is_refused_before_anything_is_sent(entry: str) -> None:
    with pytest.raises(ValueError, match="response_metadata"):
        parse_allow_list([entry])
    with pytest.raises(ConfigError, match="provider 'mine'"):
        await call(allowed=(entry,))
