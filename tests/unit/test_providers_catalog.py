"""Settings become callers, or an error that names what to change (contract 06 §3.1, design D13, D16)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.clock import ManualCancel, ManualClock
from support.wire import ScriptedTransport, text_reply

from lash_cli.core.content import Message, Role, TextPart
from lash_cli.core.llm import LlmRequest, LlmScope, StreamEvent
from lash_cli.core.policy import ModelSpec
from lash_cli.errors import ConfigError
from lash_cli.providers.catalog import KINDS, SPOKEN_BY, ProviderSettings, build_caller

ROOT = Path(__file__).resolve().parents[2]


def build(kind: str = "openai_chat", base_url: str | None = None, key: str | None = None, **options: Any) -> Any:
    settings = ProviderSettings("mine", kind, base_url, key, options)
    return build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0)


async def sent(base_url: str | None, key: str | None = None, **options: Any) -> tuple[str, bytes]:
    transport = ScriptedTransport(text_reply("ok"))
    settings = ProviderSettings("mine", "openai_chat", base_url, key, options)
    caller = build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0, transport=transport)

    async def sink(event: StreamEvent) -> None: ...

    message = Message("m", Role.USER, (TextPart("x"),))
    request = LlmRequest(model=ModelSpec("m"), messages=(message,), scope=LlmScope("s", "r"), output_token_cap=5)
    result = await caller.call(request, sink=sink, cancel=ManualCancel())
    assert result.response is not None
    return transport.requests[0].url, transport.requests[0].body


async def test_openai_is_the_default_address_and_gets_its_own_name_for_the_output_cap() -> None:
    url, body = await sent(None, "key-0001")
    assert url == "https://api.openai.com/v1/chat/completions"
    assert b'"max_completion_tokens":5' in body


async def test_a_local_server_needs_no_key() -> None:
    url, body = await sent("http://127.0.0.1:11434/v1")
    assert url == "http://127.0.0.1:11434/v1/chat/completions"
    assert b'"max_tokens":5' in body


async def test_an_option_beats_the_default_of_its_kind() -> None:
    _, body = await sent(None, "key-0001", output_cap_field="max_tokens")
    assert b'"max_tokens":5' in body


@pytest.mark.parametrize("base_url", [None, "https://api.openai.com/v1/"])
def test_openai_without_a_key_is_refused_before_any_call(base_url: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        build(base_url=base_url)
    assert caught.value.code == "key_missing"
    assert "OPENAI_API_KEY" in caught.value.hint


def test_an_unknown_kind_names_the_valid_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        build("parrot")
    assert caught.value.code == "config_invalid"
    assert "loopback, openai_chat" in caught.value.message


@pytest.mark.parametrize("options", [{"max_attempt": 3}, {"max_attempts": "many"}, {"max_attempts": 0}, {"jitter": 7}])
def test_bad_options_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        build("loopback", **options)
    assert caught.value.code == "config_invalid"
    assert "max_attempt" in caught.value.message or "jitter" in caught.value.message


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
@pytest.mark.parametrize("name", ["request_timeout_seconds", "chunk_timeout_seconds", "connect_timeout_seconds"])
def test_a_time_limit_that_no_call_can_keep_is_refused(name: str, seconds: float) -> None:
    with pytest.raises(ConfigError) as caught:
        build(base_url="http://test.invalid/v1", **{name: seconds})
    assert caught.value.code == "config_invalid"
    assert name in caught.value.message
    build(base_url="http://test.invalid/v1", **{name: float("inf")})


def test_a_bad_address_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        build(base_url="localhost:8000")
    assert caught.value.code == "invalid_provider_endpoint"


def test_the_caller_carries_the_configured_name() -> None:
    assert build("loopback").provider_id == "mine"


def test_settings_never_show_their_key() -> None:
    settings = ProviderSettings("mine", "openai_chat", None, "key-0001", {"headers": {"authorization": "key-0002"}})
    assert "key-000" not in f"{settings!r}{settings}"


def test_building_a_caller_imports_no_http_client() -> None:
    program = (
        "import sys\n"
        "from lash_cli.providers.catalog import ProviderSettings, build_caller\n"
        "assert 'asyncio' not in sys.modules and 'lash_cli.providers.openai_chat' not in sys.modules\n"
        "from lash_cli.system import SystemClock\n"
        "for settings in (ProviderSettings('a', 'loopback'), ProviderSettings('b', 'openai_chat', 'http://x/v1')):\n"
        "    build_caller(settings, clock=SystemClock(), ids_bits=lambda n: 0)\n"
        "assert not {'httpx', 'httpx2', 'openai', 'pydantic'} & set(sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(("option", "kinds"), SPOKEN_BY.items())
def test_an_option_that_a_kind_has_no_words_for_is_refused_and_not_dropped(
    option: str, kinds: tuple[str, ...], kind: str
) -> None:
    value = {
        "max_output_tokens": 99,
        "thinking_prefix_mismatch": "error",
        "output_cap_field": "max_tokens",
        "cache_retention": "long",
        "cache_control": "anthropic",
        "reasoning_dialect": "openai",
        "reasoning_text_field": "reasoning_content",
        "conversation_dialect": "mistral",
    }
    settings = ProviderSettings("p", kind, "http://test.invalid", None, {option: value.get(option, True)})
    if kind in kinds:
        build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0)
        return
    with pytest.raises(ConfigError) as refused:
        build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0)
    assert option in refused.value.message and all(name in refused.value.message for name in kinds)
