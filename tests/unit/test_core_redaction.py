"""What a provider or a tool said itself: how much of it is kept, and never a credential (contract 01 §7)."""

from __future__ import annotations

import json

import pytest

from lash_cli.core.redaction import MAX_RAW_CHARS, kept_raw

KEY = "canary7f3a9c2e"


@pytest.mark.parametrize("text", [None, "", " \n", "it broke", " it broke\n"])
def test_what_says_no_more_than_the_message_is_not_kept(text: str | None) -> None:
    assert kept_raw(text, "HTTP 400: it broke") is None


def test_what_says_more_is_kept_as_it_was_said() -> None:
    said = json.dumps({"error": {"message": "it broke", "param": "tools[2]"}})
    assert kept_raw(said, "HTTP 400: it broke") == said


@pytest.mark.parametrize(
    "said",
    [
        f"key {KEY} is wrong",
        f'{{"headers": {{"authorization": "Basic {KEY}"}}}}',
        f'{{"Set-Cookie": "a=\\"{KEY}\\"; path=/"}}',
        f'{{"x-auth-token":"{KEY}"}}',
        f'{{"client_secret" : "{KEY}',
        f"Authorization: Bearer {KEY}",
        f"https://host/v1?key={KEY}&alt=sse",
    ],
)
def test_no_credential_is_kept(said: str) -> None:
    kept = kept_raw(said, "it broke", (KEY,) if said.startswith("key ") else ())
    assert kept is not None and KEY not in kept and "[redacted]" in kept


def test_numbers_under_a_name_of_credentials_are_none() -> None:
    said = '{"max_tokens": 4096, "usage": {"prompt_tokens": 12}}'
    assert kept_raw(said, "it broke") == said


def test_a_secret_at_the_bound_leaves_no_half() -> None:
    kept = kept_raw("x" * (MAX_RAW_CHARS - 5) + KEY + "y" * MAX_RAW_CHARS, "it broke", (KEY,))
    assert kept is not None and len(kept) == MAX_RAW_CHARS and kept.endswith("…") and KEY[:3] not in kept
