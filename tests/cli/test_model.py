"""`lash model`: what is known, what is not, and short names (contract 08 §5.4, §6.7)."""

from __future__ import annotations

import tomllib

import pytest

from lash_cli.providers.models import CATALOGUE


def test_the_catalogue_is_listed_with_its_figures_and_nothing_is_made(lash, home):
    items = {item["name"]: item for item in lash("model", "ls", "-o", "json").json["items"]}
    assert set(items) == set(CATALOGUE)
    luna = items["gpt-6-luna"]
    assert (luna["model"], luna["provider_kind"], luna["alias"]) == ("gpt-6-luna", "openai_responses", False)
    assert luna["prices"]["input"] == 100_000 and luna["prices"]["currency"] == "USD"
    assert luna["prices"]["looked_up"] == "2026-11-26"
    assert not home.exists()


def test_aliases_come_first_and_the_default_is_marked(lash):
    lash("model", "alias", "quick", "gpt-6-luna", "--variant", "low")
    lash("model", "default", "quick")
    first = lash("model", "ls", "-o", "json").json["items"][0]
    assert (first["name"], first["model"], first["alias"], first["default"]) == ("quick", "gpt-6-luna", True, True)
    assert lash("model", "ls").out.splitlines()[1].startswith("quick *")
    assert lash("model", "ls", "-o", "name").out.splitlines()[0] == "quick"
    assert lash("model", "ls", "--fields", "name,prices.output", "-o", "json").json["items"][0] == {
        "name": "quick", "prices": {"output": 500_000},
    }  # fmt: skip


def test_a_model_is_shown_with_where_it_was_read(lash):
    document = lash("model", "show", "claude-haiku-5-5", "-o", "json").json
    assert document["in_catalogue"] and document["source"].startswith("https://")
    assert document["cache_control"] == "anthropic"
    assert document["reasoning"]["disable"] == "native"
    assert (document["max_output_tokens"], document["output_cap_tokens"]) == (128_000, 32_768)
    assert document["prices"]["long_context_above_tokens"] == 100_000
    assert document["overrides"] == []
    text = lash("model", "show", "claude-haiku-5-5").out
    assert "0.125 USD" in text and "asked for at most: 32 768" in text


def test_what_the_users_table_changes_is_said(lash):
    lash("model", "alias", "mine", "claude-haiku-5-5", "--max-output", "64000", "--context-window", "9000")
    assert lash("config", "set", "models.mine.prices.input", "0.5").code == 0
    assert lash("config", "set", "models.mine.reasoning.disable", "omit").code == 0
    document = lash("model", "show", "mine", "-o", "json").json
    assert document["overrides"] == ["context_window_tokens", "max_output_tokens", "prices", "reasoning"]
    assert (document["context_window_tokens"], document["output_cap_tokens"]) == (9000, 64_000)
    assert document["prices"]["input"] == 500_000 and document["prices"]["output"] == 500_000
    assert document["prices"]["looked_up"] is None, "the day of the catalogue is not the day of the user's price"
    assert document["reasoning"]["disable"] == "omit"


def test_an_alias_of_an_unknown_model_shows_that_nothing_is_known(lash):
    lash("model", "alias", "local", "llama3.3:70b")
    document = lash("model", "show", "local", "-o", "json").json
    assert document["in_catalogue"] is False
    for field in ("context_window_tokens", "max_output_tokens", "output_cap_tokens", "prices", "reasoning", "source"):
        assert document[field] is None


@pytest.mark.parametrize(
    ("name", "said"),
    [("gpt-6-lunar", "did you mean: lash model show gpt-6-luna"), ("zzz", "lash model alias NAME zzz")],
)
def test_an_unknown_model_is_not_found(lash, name, said):
    done = lash("model", "show", name, "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (3, "", "model_not_found")
    assert said in done.error["hint"]


def test_the_default_is_shown_with_what_says_so(lash):
    assert lash("model", "default").out == "loopback\n"
    shown = lash("model", "default", "-o", "json").json
    assert (shown["name"], shown["provider"], shown["origin"], shown["changed"]) == (
        "loopback", "loopback", "built-in", False,
    )  # fmt: skip
    assert lash("model", "default", env={"LASH_MODEL": "m"}).out == "m\n"
    named = lash("model", "default", "-o", "json", env={"OPENAI_API_KEY": "x", "OPENAI_MODEL": "m"}).json
    assert (named["name"], named["origin"]) == ("m", "env OPENAI_MODEL")
    google = lash("model", "default", "-o", "json", env={"GEMINI_API_KEY": "x"}).json
    assert (google["name"], google["provider"]) == ("gemini-3.8-flash", "google")


def test_the_default_is_written_and_used(lash, home):
    done = lash("model", "default", "gpt-6-luna", "-o", "json")
    assert (done.code, done.json["changed"], done.err) == (0, True, "")
    assert tomllib.loads((home / "config.toml").read_text()) == {"defaults": {"model": "gpt-6-luna"}}
    assert lash("show", lash("open").out.strip(), "-o", "json").json["model"] == "gpt-6-luna"


def test_a_model_nothing_is_known_about_may_be_the_default_and_is_said_to_be_that(lash):
    done = lash("model", "default", "my-own", "-o", "json")
    assert (done.code, done.error["kind"], done.error["code"]) == (0, "Warning", "model_unknown")
    assert lash("model", "default").out == "my-own\n"


def test_without_anything_that_names_a_model_there_is_no_default(lash):
    lash("provider", "add", "local", "--base-url", "http://127.0.0.1:9/v1", "--default")
    assert lash("model", "default").out == "none\n"
    assert lash("model", "default", "-o", "json").json["name"] is None


def test_a_default_that_cannot_be_used_is_refused(lash, home):
    done = lash("model", "default", "two words", "-o", "json")
    assert (done.code, done.out) == (2, "")
    assert not home.exists()


def test_an_alias_is_written_used_and_taken_away(lash, home):
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text("# mine\n")
    assert lash("model", "alias", "deep", "gemini-4-neon", "--variant", "xhigh").code == 0
    session = lash("open", "--model", "deep").out.strip()
    policy = lash("show", session, "-o", "json").json["policy"]["model"]
    assert (policy["id"], policy["variant"]["effort"]) == ("gemini-4-neon", "xhigh")
    assert policy["limits"]["context_window_tokens"] == 1_048_576
    done = lash("model", "alias", "deep", "--rm", "-o", "json")
    assert (done.json["removed"], done.json["model"]) == (True, "gemini-4-neon")
    assert (home / "config.toml").read_text() == "# mine\n"


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (["taken", "gpt-6-luna"], "alias_exists", 4),
        (["gpt-6-luna", "other"], "usage", 2),
        (["a.b", "gpt-6-luna"], "usage", 2),
        (["new"], "usage", 2),
        (["new", "two words"], "usage", 2),
        (["new", "gemini-4-neon", "--variant", "loud"], "unsupported_effort", 2),
        (["new", "gpt-6-luna", "--max-output", "0"], "usage", 2),
        (["absent", "--rm"], "alias_not_found", 3),
        (["taken", "--rm", "--variant", "low"], "usage", 2),
        (["used", "--rm"], "alias_in_use", 4),
    ],
)
def test_bad_input_is_refused_with_a_code_and_changes_nothing(lash, home, arguments, code, status):
    lash("model", "alias", "taken", "gpt-6-luna")
    lash("model", "alias", "used", "gpt-6-luna")
    lash("model", "default", "used")
    before = (home / "config.toml").read_text()
    done = lash("model", "alias", *arguments, "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (status, "", code)
    assert (home / "config.toml").read_text() == before


def test_an_alias_is_written_anew_only_when_asked_and_then_as_a_whole(lash):
    lash("model", "alias", "quick", "gpt-6-luna", "--variant", "max")
    lash("config", "set", "models.quick.prices.input", "1")
    done = lash("model", "alias", "quick", "gemini-3.8-flash", "--replace", "-o", "json")
    assert (done.code, done.json["replaced"]) == (0, True)
    shown = lash("model", "show", "quick", "-o", "json").json
    assert (shown["model"], shown["variant"], shown["overrides"]) == ("gemini-3.8-flash", None, [])
