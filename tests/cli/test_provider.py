"""`lash provider`: what is listed, what is written, and what one real call says (contract 08 §5.4, §6.7, §6.8)."""

from __future__ import annotations

import json
import socket
import sys

import pytest
from support.cli import COMMAND, environment
from support.wire import (
    Reply,
    ThreadedChatServer,
    chunk,
    cut_reply,
    error_reply,
    hang_reply,
    html_reply,
    stream_reply,
    text_reply,
    usage_of,
)

SECRET = "sk-canary-0123456789abcdef"


@pytest.fixture
def no_proxy() -> dict[str, str]:
    return {"NO_PROXY": "127.0.0.1"}


def configured(home, text):
    """A home with this configuration; returns it."""
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(text)
    (home / "config.toml").chmod(0o600)
    return text


def names(lash, **options):
    return lash("provider", "ls", "-o", "name", **options).out.split()


def test_without_configuration_there_is_loopback_and_nothing_is_made(lash, home):
    (item,) = lash("provider", "ls", "-o", "json").json["items"]
    assert item == {
        "id": "loopback", "name": "loopback", "provider_kind": "loopback", "base_url": None, "key": None,
        "default": True, "origin": "built-in",
    }  # fmt: skip
    assert not home.exists()


@pytest.mark.parametrize(
    ("variable", "name"),
    [("OPENAI_API_KEY", "openai"), ("ANTHROPIC_API_KEY", "anthropic"), ("GEMINI_API_KEY", "google")],
)
def test_a_key_in_the_environment_makes_its_provider_the_default_and_is_not_shown(lash, variable, name):
    done = lash("provider", "ls", "-o", "json", env={variable: SECRET})
    items = {item["name"]: item for item in done.json["items"]}
    assert set(items) == {"loopback", name}
    assert items[name]["default"] and items[name]["key"] == f"env:{variable}"
    assert items[name]["origin"] == f"env {variable}"
    assert "canary" not in done.out + done.err


def test_a_list_is_shown_in_every_form(lash):
    lash("provider", "add", "one", "--base-url", "http://127.0.0.1:9/v1")
    assert lash("provider", "ls").out.splitlines()[0].split() == [
        "NAME",
        "PROVIDER",
        "KIND",
        "BASE",
        "URL",
        "KEY",
        "DEFAULT",
    ]
    assert [json.loads(line)["name"] for line in lash("provider", "ls", "-o", "jsonl").out.splitlines()] == [
        "loopback", "one",
    ]  # fmt: skip
    chosen = lash("provider", "ls", "--fields", "name,base_url", "-o", "json").json["items"]
    assert chosen[1] == {"name": "one", "base_url": "http://127.0.0.1:9/v1"}
    assert lash("provider", "ls", "--format", "{name}={provider_kind}").out.splitlines()[1] == "one=openai_chat"


def test_a_provider_is_written_privately_and_comments_stay(lash, home):
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text("# mine\n[defaults]\nmodel = 'm'  # this one\n")
    done = lash(
        "provider", "add", "local", "--base-url", "http://127.0.0.1:11434/v1", "--key", "env:LOCAL_KEY",
        "--option", "max_attempts=2", "--option", "headers.x-team=blue", "--default", "-o", "json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["added"] is True and done.json["default"] is True
    assert done.json["options"] == {"max_attempts": 2, "headers": {"x-team": "[redacted]"}}
    text = (home / "config.toml").read_text()
    assert text.startswith("# mine\n[defaults]\nmodel = 'm'  # this one\n")
    assert 'options = { max_attempts = 2, headers = { x-team = "blue" } }' in text
    assert (home / "config.toml").stat().st_mode & 0o777 == 0o600
    (item,) = [item for item in lash("provider", "ls", "-o", "json").json["items"] if item["default"]]
    assert (item["name"], item["key"], item["base_url"]) == ("local", "env:LOCAL_KEY", "http://127.0.0.1:11434/v1")


@pytest.mark.parametrize(
    ("arguments", "code", "status", "said"),
    [
        (["x", "--kind", "opnai_chat"], "usage", 2, "did you mean: --kind openai_chat"),
        (["x", "--kind", "loopback"], "usage", 2, "unknown kind"),
        (["x", "--base-url", "ftp://host/v1"], "invalid_provider_endpoint", 2, "https://host/v1"),
        (["x", "--base-url", "localhost:8000"], "invalid_provider_endpoint", 2, "https://host/v1"),
        (["x", "--base-url", "http://me:pass@host/v1"], "invalid_provider_endpoint", 2, "credentials"),
        (["loopback", "--base-url", "http://h/v1"], "usage", 2, "reserved"),
        (["two words", "--base-url", "http://h/v1"], "usage", 2, "cannot name a provider"),
        (["a.b", "--base-url", "http://h/v1"], "usage", 2, "cannot name a provider"),
        (["taken", "--base-url", "http://h/v1"], "provider_exists", 4, "already"),
        (["x", "--base-url", "http://h/v1", "--option", "max_attempt=2"], "usage", 2, "max_attempt"),
        (["x", "--base-url", "http://h/v1", "--option", "max_attempts"], "usage", 2, "NAME=VALUE"),
        (["x", "--base-url", "http://h/v1", "--key", SECRET], "usage", 2, "never the key itself"),
        (["x", "--base-url", "http://h/v1", "--key", "env:X", "--stdin"], "usage", 2, "contradict"),
        (["x", "--base-url", "http://h/v1", SECRET], "usage", 2, "never given as an argument"),
        (["x", "--base-url", "http://h/v1", "--option", f"headers.X-Api-Key={SECRET}"], "usage", 2, "never given"),
        (["x", "--base-url", "http://h/v1", "--option", f"query.sig={SECRET}"], "usage", 2, "never given"),
        (["x", "--base-url", "http://h/v1", "--ask-key", "--stdin"], "usage", 2, "contradict"),
        (["x", "--base-url", "http://h/v1", "--ask-key"], "not_a_tty", 2, "--stdin"),
        (["openai"], "not_a_tty", 2, "--stdin"),
        (["opnai"], "provider_unknown", 2, "did you mean: openai"),
        (["Antropic", "--key", "env:X", "--default"], "provider_unknown", 2, "did you mean: anthropic"),
        (["openrouter", "--key", "keys:openrouter"], "provider_unknown", 2, "--base-url URL"),
    ],
)
def test_bad_input_is_refused_with_a_code_and_changes_nothing(lash, home, arguments, code, status, said):
    before = configured(home, '[providers.taken]\nkind = "openai_chat"\nbase_url = "http://127.0.0.1:9/v1"\n')
    done = lash("provider", "add", *arguments, "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (status, "", code)
    assert said in done.error["message"] + (done.error["hint"] or "")
    assert "canary" not in done.err
    assert (home / "config.toml").read_text() == before
    assert not (home / "keys.toml").exists()


def test_options_that_were_added_are_changed_and_taken_away_one_by_one(lash, home):
    given = ("--option", "max_attempts=1", "--option", "headers.X-Org=blue")
    assert lash("provider", "add", "mine", "--base-url", "http://h/v1", *given).code == 0
    option = "providers.mine.options"
    for key, value in (("max_attempts", "3"), ("jitter", "0.5"), ("headers.X-Team", "red")):
        assert lash("config", "set", f"{option}.{key}", value).code == 0
    text = (home / "config.toml").read_text()
    assert 'options = { max_attempts = 3, headers = { X-Org = "blue", X-Team = "red" }, jitter = 0.5 }' in text
    for key in ("headers.X-Org", "max_attempts", "headers.X-Team", "jitter"):
        assert lash("config", "unset", f"{option}.{key}").code == 0
    assert "options" not in (home / "config.toml").read_text()
    assert lash("config", "validate").code == 0


def test_what_goes_into_a_header_or_an_address_is_text_however_it_looks(lash, home, no_proxy):
    given = ("--option", "headers.X-Org=123", "--option", "query.api-version=1.0", "--option", 'query.q="true"')
    with ThreadedChatServer([], default=text_reply("hi")) as server:
        assert lash("provider", "add", "mine", "--base-url", server.base_url, *given).code == 0
        assert lash("provider", "add", "other", "--base-url", server.base_url).code == 0
        assert lash("config", "set", "providers.other.options.headers.X-On", "true").code == 0
        again = ("-c", "providers.other.options.headers.X-Nr=007")
        assert lash("provider", "test", "mine", "--model", "m", env=no_proxy).code == 0
        assert lash(*again, "provider", "test", "other", "--model", "m", env=no_proxy).code == 0
        mine, other = server.requests
    assert mine.headers["x-org"] == "123" and mine.path.endswith("?api-version=1.0&q=true")
    assert (other.headers["x-on"], other.headers["x-nr"]) == ("true", "007")


def test_a_key_from_stdin_is_stored_and_only_its_place_is_configured(lash, home):
    done = lash("provider", "add", "openai", "--stdin", input=SECRET + "\n")
    assert (done.code, done.out) == (0, "")
    assert 'key = "keys:openai"' in (home / "config.toml").read_text()
    everything = done.err + (home / "config.toml").read_text() + lash("config", "show").out + lash("key", "ls").out
    assert "canary" not in everything
    assert SECRET in (home / "keys.toml").read_text()


def test_a_name_that_says_nothing_takes_no_key_and_gets_none(lash, home):
    for given in ({"input": SECRET}, {"env": {"OPENAI_API_KEY": SECRET}}):
        options = ("--stdin",) if "input" in given else ()
        done = lash("provider", "add", "opnai", *options, "-o", "json", **given)
        assert (done.code, done.out, done.error["code"]) == (2, "", "provider_unknown")
        assert done.error["details"] == {"provider": "opnai", "nearest": ["openai"]}
    assert not (home / "config.toml").exists() and not (home / "keys.toml").exists()


def test_a_name_of_ones_own_with_a_kind_is_that_kinds_own_server(lash):
    done = lash("provider", "add", "opnai", "--kind", "openai", "--key", "env:SECOND_KEY", "-o", "json")
    assert (done.code, done.json["provider_kind"], done.json["base_url"]) == (0, "openai_chat", None)


def test_a_key_in_the_environment_need_not_be_given_again(lash, home):
    assert lash("provider", "add", "openai", env={"OPENAI_API_KEY": SECRET}).code == 0
    assert "key" not in (home / "config.toml").read_text()


def test_a_bad_key_writes_no_provider(lash, home):
    assert lash("provider", "add", "openai", "--stdin", input="two words\n").code == 2
    assert not (home / "config.toml").exists() and not (home / "keys.toml").exists()


def test_a_file_that_cannot_be_added_to_is_left_alone_and_no_key_stays_behind(lash, home):
    home.mkdir(mode=0o700)
    text = 'providers = { a = { kind = "openai_chat", options = { omit_body = [\n"b",\n] } } }\n'
    (home / "config.toml").write_text(text)
    done = lash("provider", "add", "mine", "--base-url", "http://h/v1", "--stdin", "-o", "json", input=SECRET)
    assert (done.code, done.out, done.error["hint"]) == (5, "", "edit the file by hand")
    assert (home / "config.toml").read_text() == text
    assert lash("key", "ls", "-o", "name").out == ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("arguments", [["openai"], ["mine", "--base-url", "http://127.0.0.1:9/v1", "--ask-key"]])
def test_a_key_that_is_needed_or_offered_is_asked_for_hidden(home, tmp_path, arguments):
    import pexpect

    command = [*COMMAND[1:], "provider", "add", *arguments]
    child = pexpect.spawn(COMMAND[0], command, env=environment(home), cwd=str(tmp_path), timeout=30)
    child.expect("not shown")
    child.waitnoecho()
    child.sendline(SECRET)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert b"canary" not in child.before
    assert f'key = "keys:{arguments[0]}"' in (home / "config.toml").read_text()


def test_a_provider_goes_and_its_key_stays(lash, home):
    lash("provider", "add", "other", "--base-url", "http://127.0.0.1:9/v1")
    lash("provider", "add", "mine", "--base-url", "http://127.0.0.1:9/v1", "--stdin", input=SECRET)
    done = lash("provider", "rm", "mine", "-o", "json")
    assert (done.code, done.json["removed"], done.json["key"]) == (0, True, "keys:mine")
    assert "lash key rm mine" not in done.err, "a note is not for programs"
    assert names(lash) == ["loopback", "other"]
    assert lash("key", "ls", "-o", "name").out.split() == ["mine"]


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [("nne", "provider_not_found", 3), ("loopback", "provider_built_in", 4), ("used", "provider_in_use", 4),
     ("openai", "provider_not_in_file", 4), ("elsewhere", "provider_not_in_file", 4)],
)  # fmt: skip
def test_what_cannot_be_removed_says_why(lash, home, name, code, status):
    used = '[providers.used]\nkind = "openai_chat"\nbase_url = "http://127.0.0.1:9/v1"\n'
    before = configured(home, f'[defaults]\nprovider = "used"\n\n{used}')
    env = {"OPENAI_API_KEY": SECRET, "LASH_CFG__providers__elsewhere__base_url": "http://127.0.0.1:9/v1"}
    done = lash("provider", "rm", name, "-o", "json", env=env)
    assert (done.code, done.out, done.error["code"]) == (status, "", code)
    assert (home / "config.toml").read_text() == before


def served(**usage) -> Reply:
    return stream_reply(
        chunk({"role": "assistant", "content": "ready"}),
        chunk(finish_reason="stop"),
        chunk(usage=usage_of(11, 2, **usage)),
    )


def call(lash, server, *arguments, env, key=SECRET, **options):
    env = {**env, "MY_KEY": key, "LASH_CFG__providers__mine__base_url": server.base_url,
           "LASH_CFG__providers__mine__key": "env:MY_KEY"}  # fmt: skip
    return lash("provider", "test", "mine", *arguments, env=env, **options)


def test_one_small_real_call_says_what_was_served(lash, home, no_proxy):
    with ThreadedChatServer([served(prompt_tokens_details={"cached_tokens": 4})]) as server:
        done = call(lash, server, "--model", "gpt-5-mini", "-o", "json", env=no_proxy)
    assert done.code == 0, done.err
    (request,) = server.requests
    assert request.json["model"] == "gpt-5-mini" and "tools" not in request.json
    assert len(request.body) < 500
    document = done.json
    assert (document["model"], document["served_model"]) == ("gpt-5-mini", "served-model")
    assert (document["response_id"], document["request_id"]) == ("chatcmpl-1", "req_test")
    assert (document["finish_reason"], document["text"]) == ("stop", "ready")
    assert document["usage"]["input_tokens"] == 7 and document["usage"]["cache_read_input_tokens"] == 4
    assert document["latency_ms"] >= 0
    assert (document["cost_micros"], document["currency"]) == (6, "USD"), "7·0.25 + 4·0.025 + 2·2, rounded up"
    assert not (home / "lash.db").exists(), "nothing is stored"


def test_people_get_it_as_a_few_lines(lash, no_proxy):
    with ThreadedChatServer([served()]) as server:
        done = call(lash, server, "--model", "some-model", env=no_proxy)
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert lines["served"] == "served-model" and lines["answer"] == "ready" and lines["cost"] == "unknown"


REFUSED = {"error": {"message": f"Incorrect API key provided: {SECRET}.", "code": "invalid_api_key"}}
NO_CREDIT = {"error": {"message": "You exceeded your current quota, check your plan.", "code": "insufficient_quota"}}
TOO_FAST = {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}
NO_MODEL = {"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}


@pytest.mark.parametrize(
    ("reply", "code", "status", "hint"),
    [
        (error_reply(401, REFUSED), "key_rejected", 5, "set MY_KEY to a key"),
        (error_reply(403), "key_rejected", 5, "set MY_KEY to a key"),
        (error_reply(429, NO_CREDIT), "quota_exhausted", 6, "add credit"),
        (error_reply(402), "quota_exhausted", 6, "add credit"),
        (error_reply(429, TOO_FAST, {"retry-after": "7"}), "provider_rate_limited", 75, "in 7 s"),
        (error_reply(429, TOO_FAST), "provider_rate_limited", 75, "in a while"),
        (error_reply(404, NO_MODEL), "model_not_found", 6, "--model ID"),
        (error_reply(404, "page not found"), "http", 6, "end in /v1"),
        (html_reply(), "unexpected_html", 6, "end in /v1"),
        (error_reply(400), "validation", 6, "refused the request itself"),
        (error_reply(503), "provider_unavailable", 75, "ask again"),
        (cut_reply("rea", ending="complete"), "provider_unavailable", 75, "ask again"),
    ],
)
def test_a_failure_has_its_code_and_the_next_step(lash, no_proxy, reply, code, status, hint):
    with ThreadedChatServer([reply]) as server:
        done = call(lash, server, "--model", "x", "-o", "json", env=no_proxy)
        assert len(server.requests) == 1, "a test asks once and does not wait"
    assert (done.code, done.out, done.error["code"]) == (status, "", code)
    assert hint in done.error["hint"]
    assert done.error["details"]["provider"] == "mine"
    assert "canary" not in done.err


def test_a_key_is_in_nothing_that_a_failure_leaves_behind(lash, home, no_proxy):
    lash("provider", "add", "mine", "--base-url", "http://127.0.0.1:9/v1", "--stdin", input=SECRET)
    (home / "keys.toml").rename(home.parent / "keys.toml")
    (home.parent / "keys.toml").chmod(0o600)
    source = f"cmd:sed -n s/mine.=.//p {home.parent / 'keys.toml'}"
    said = ""
    for reply in (error_reply(401, REFUSED), error_reply(500, SECRET), html_reply(title=SECRET), cut_reply(SECRET)):
        with ThreadedChatServer([reply]) as server:
            env = {**no_proxy, "LASH_CFG__providers__mine__base_url": server.base_url,
                   "LASH_CFG__providers__mine__key": source}  # fmt: skip
            for form in ("text", "json"):
                server.script(reply)
                done = lash("provider", "test", "mine", "--model", "x", "--debug", "-o", form, env=env)
                assert done.code != 0
                said += done.out + done.err
            assert all(SECRET in request.headers["authorization"] for request in server.requests)
    left = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert "canary" not in said and b"canary" not in left


def test_a_server_that_is_not_there_names_its_address(lash, no_proxy):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        env = {**no_proxy, "LASH_CFG__providers__mine__base_url": url}
        done = lash("provider", "test", "mine", "--model", "x", "-o", "json", env=env)
    assert (done.code, done.error["code"]) == (75, "provider_unavailable")
    assert url in done.error["hint"] and "running" in done.error["hint"]
    assert done.error["details"]["failure"] == "transport"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HTTPS_PROXY", "ftp://me:secretword@proxy.test:1"), ("SSL_CERT_FILE", "/nowhere/at/all.pem")],
)
def test_an_environment_nothing_can_be_sent_from_is_named(lash, no_proxy, variable, value):
    env = {**no_proxy, variable: value, "LASH_CFG__providers__mine__base_url": "http://127.0.0.1:9/v1"}
    done = lash("provider", "test", "mine", "--model", "x", "-o", "json", env=env)
    assert (done.code, done.error["code"]) == (6, "network_setup_invalid")
    assert variable in done.error["message"] and "unset it" in done.error["hint"]
    assert "secretword" not in done.out + done.err


def test_a_server_that_says_nothing_is_given_up(lash, no_proxy):
    with ThreadedChatServer([hang_reply()]) as server:
        done = call(
            lash, server, "--model", "x", "-o", "json", env=no_proxy | {
                "LASH_CFG__providers__mine__options__chunk_timeout_seconds": "0.3"
            },
        )  # fmt: skip
    assert (done.code, done.error["code"], done.error["details"]["failure"]) == (75, "provider_unavailable", "timeout")


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("keys:mine", "lash key set mine"),
        ("cmd:echo a-wrong-key-value", "key command"),
        (None, "lash key set mine, then:"),
    ],
)
def test_a_refused_key_says_where_to_put_the_right_one(lash, no_proxy, source, hint):
    lash("key", "set", "mine", "--stdin", input=SECRET)
    with ThreadedChatServer([error_reply(401)]) as server:
        env = {**no_proxy, "LASH_CFG__providers__mine__base_url": server.base_url}
        if source is not None:
            env["LASH_CFG__providers__mine__key"] = source
        done = lash("provider", "test", "mine", "--model", "x", "-o", "json", env=env)
    assert (done.code, done.error["code"]) == (5, "key_rejected")
    assert hint in done.error["hint"]


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (["nobody"], "provider_unconfigured", 5),
        (["mine"], "usage", 2),
        (["mine", "--model", "two words"], "usage", 2),
        (["openai", "--model", "x"], "provider_unconfigured", 5),
    ],
)
def test_a_call_that_cannot_be_made_is_not_made(lash, arguments, code, status):
    env = {"LASH_CFG__providers__mine__base_url": "http://127.0.0.1:9/v1"}
    done = lash("provider", "test", *arguments, "-o", "json", env=env)
    assert (done.code, done.out, done.error["code"]) == (status, "", code)


def test_loopback_answers_without_a_network(lash):
    document = lash("provider", "test", "loopback", "-o", "json").json
    assert (document["served_model"], document["cost_micros"]) == ("loopback", None)


def test_a_default_that_something_else_overrules_is_said_to_be_that(lash):
    env = {"LASH_PROVIDER": "loopback", "LASH_MODEL": "loopback"}
    added = lash("provider", "add", "mine", "--base-url", "http://127.0.0.1:9/v1", "--default", env=env)
    assert "here defaults.provider is loopback all the same, because of env LASH_PROVIDER" in added.err
    assert "because of env LASH_MODEL" in lash("model", "default", "gpt-6-luna", env=env).err
    assert "because of" not in lash("model", "default", "gpt-6-luna").err


def test_what_an_added_provider_is_to_be_tried_with_names_a_model_where_nothing_else_does(lash):
    def hint(done):
        return done.err.partition("try it with: ")[2].strip()

    local = ("provider", "add", "local", "--base-url", "http://127.0.0.1:9/v1")
    assert hint(lash(*local)) == "lash provider test local --model ID"
    assert lash("provider", "test", "local", "-o", "json").error["code"] == "usage"
    lash("provider", "rm", "local")
    chosen = lash("model", "default", "gpt-6-luna")
    assert "of provider loopback, which asks no model" in chosen.err and "lash provider add" in chosen.err
    assert hint(lash(*local, "--default")) == "lash provider test local"
    assert lash("provider", "test", "local", "-o", "json").error["code"] == "provider_unavailable"
    assert lash("model", "default", "gpt-6-luna").err.strip() == "new sessions use gpt-6-luna, of provider local"
