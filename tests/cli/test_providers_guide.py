"""The guide to providers: every command of it runs, every table of it is whole, against a server that stands in."""

from __future__ import annotations

import re
import tomllib

import pytest
from support.guides import blocks, reader, run_shell
from support.wire import RecordedRequest, ThreadedChatServer, text_reply

from lash_cli import docs
from lash_cli.providers.catalog import KINDS, ProviderOptions
from lash_cli.settings.loading import check_document
from lash_cli.settings.providers import WELL_KNOWN
from lash_cli.settings.schema import KEY_SOURCES, NAMED_SECTIONS

GUIDE = docs.read("providers")
_ADDRESS = re.compile(r"https?://[a-z0-9.:-]+(?=/)")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> list[RecordedRequest]:
    """What the server was asked while every block ran, in order, on one home."""
    place = tmp_path_factory.mktemp("guide")
    environment = reader(place)
    (place / "key.txt").write_text("sk-from-a-file-0123456789\n")
    with ThreadedChatServer(default=text_reply("an answer")) as server:
        root = server.base_url.removesuffix("/v1")
        # The documented addresses differ in their host only, so the paths stay what a reader types.
        script = _ADDRESS.sub(root, "\n".join(blocks("providers", "sh")))
        done = run_shell(script, place, environment)
        assert "example-0123456789" not in done.stdout + done.stderr, "a key is never shown"
        return server.requests


def test_every_block_runs_and_every_server_is_called_as_documented(ran: list[RecordedRequest]) -> None:
    asked = [(request.path, request.json["model"]) for request in ran]
    assert asked == [
        ("/v1/chat/completions", "llama3.2"),
        ("/v1/chat/completions", "llama3.2"),
        ("/v1/chat/completions", "default"),
        ("/v1/chat/completions", "Qwen/Qwen3-8B"),
        ("/v1/chat/completions", "deepseek-flash"),
        ("/v1/chat/completions", "mistral-small-latest"),
        ("/api/v1/chat/completions", "vendor/model"),
        ("/openai/v1/chat/completions", "my-deployment"),
        ("/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21", "my-deployment"),
    ]


def test_keys_travel_as_each_server_wants_them(ran: list[RecordedRequest]) -> None:
    *local, deepseek, mistral, openrouter, azure, dated = ran
    for request in local:
        assert "authorization" not in request.headers
    assert deepseek.headers["authorization"] == "Bearer sk-ds-example-0123456789"
    assert mistral.headers["authorization"] == "Bearer ms-example-0123456789"
    assert "stream_options" not in mistral.json
    assert openrouter.headers["authorization"] == "Bearer sk-or-example-0123456789"
    assert openrouter.headers["x-title"] == "mine"
    for request in (azure, dated):
        assert request.headers["api-key"] == "azure-example-0123456789"
        assert "authorization" not in request.headers


@pytest.mark.parametrize("text", blocks("providers", "toml"))
def test_every_table_of_the_guide_loads(text: str) -> None:
    assert tomllib.loads(text)
    check_document(text, "config.toml")


def test_the_guide_leaves_nothing_out() -> None:
    for option in ProviderOptions.__struct_fields__:
        assert re.search(rf"^\|[^|]*`{option}`[^|]*\|", GUIDE, flags=re.MULTILINE), option
    for kind in KINDS:
        assert f"`{kind}`" in GUIDE, kind
    for source in KEY_SOURCES:
        assert f"| `{source}:" in GUIDE, source
    for name, known in WELL_KNOWN.items():
        assert f"| `{known.key_variable}` | `{name}` | `{known.kind}` |" in GUIDE, name
        assert f"`{known.model}`" in GUIDE
    for field in NAMED_SECTIONS["models"]:
        assert field in GUIDE, field


def test_what_the_guide_says_of_defaults_is_so() -> None:
    defaults = ProviderOptions()
    words = {"none": None, "false": False, "true": True, "": None}
    checked = 0
    for names, said in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]*)\|", GUIDE, flags=re.MULTILINE):
        fields = re.findall(r"`(\w+)`", names)
        if not set(fields) <= set(ProviderOptions.__struct_fields__) or said.strip() == "by kind":
            continue
        for field, text in zip(fields, said.split(", "), strict=True):
            value = text.strip(" `")
            expected = words[value] if value in words else float(value) if value[0].isdigit() else value
            assert (getattr(defaults, field) or None) == (expected or None), field
            checked += 1
    assert checked > 20
