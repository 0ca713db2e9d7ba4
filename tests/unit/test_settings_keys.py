"""Where a key comes from, and that it goes nowhere else (contract 08 §6.8)."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable

import pytest
from support.regex_steps import steps
from support.work import at_most

from lash_cli.errors import ConfigError, UsageError
from lash_cli.paths import resolve_paths
from lash_cli.settings import keys
from lash_cli.settings import redact as redacting
from lash_cli.settings.redact import find_secrets, redact, remember, remember_credentials


@pytest.fixture
def paths(tmp_path):
    return resolve_paths({"LASH_HOME": str(tmp_path)})


def fetch(source, paths, **environment):
    return keys.fetch_key(source, paths, environment, wanted_by="provider x")


def test_every_source_gives_its_key(paths, tmp_path):
    keys.store_key(paths, "stored", "from-the-store")
    file = tmp_path / "key.txt"
    file.write_text("from-a-file\n")
    file.chmod(0o600)
    assert fetch("keys:stored", paths) == "from-the-store"
    assert fetch("env:MY_KEY", paths, MY_KEY=" from-env ") == "from-env"
    assert fetch(f"file:{file}", paths) == "from-a-file"
    assert fetch(f"cmd:{sys.executable} -c \"print('from-a-command\\nmore')\"", paths) == "from-a-command"


@pytest.mark.parametrize(
    "source", ["keys:none", "env:NONE", "file:/none/at/all", "cmd:false", "cmd:/no/such/program", "keyring:none"]
)
def test_a_source_without_a_key_is_key_missing(paths, source):
    with pytest.raises(ConfigError) as caught:
        fetch(source, paths)
    assert (caught.value.code, caught.value.exit_status) == ("key_missing", 5)
    assert "provider x" in caught.value.message


def test_a_command_that_hangs_is_killed(paths, monkeypatch):
    monkeypatch.setattr(keys, "KEY_COMMAND_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(ConfigError) as caught:
        fetch("cmd:sleep 60", paths)
    assert caught.value.code == "key_missing"
    assert "longer than" in caught.value.hint


def test_a_command_that_leaves_a_helper_with_its_pipe_is_not_waited_for(paths, tmp_path):
    """An agent that a password manager starts inherits its output."""
    pid_file = tmp_path / "pid"
    try:
        source = f"cmd:sh -c 'sleep 60 & echo $! > {pid_file}; echo a-key-from-a-manager; echo url: example.org'"
        assert fetch(source, paths) == "a-key-from-a-manager"
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


def test_what_a_command_prints_beyond_a_key_is_read_and_not_kept(paths):
    assert fetch("cmd:sh -c 'yes a-line-that-repeats | head -c 20000000'", paths) == "a-line-that-repeats"
    endless = fetch("cmd:sh -c 'yes | tr -d \"\\n\" | head -c 20000000'", paths)
    assert 0 < len(endless) <= 2 * 64 * 1024


def test_the_output_of_a_failing_command_is_never_shown(paths, capfd):
    with pytest.raises(ConfigError) as caught:
        fetch("cmd:sh -c 'echo sk-leaked-key-value; echo sk-leaked-key-value >&2; exit 1'", paths)
    assert "leaked-key" not in str(caught.value) + str(caught.value.hint)
    assert capfd.readouterr() == ("", "")


def test_a_file_others_can_read_is_unsafe(paths, tmp_path):
    file = tmp_path / "key.txt"
    file.write_text("secret")
    file.chmod(0o640)
    with pytest.raises(ConfigError) as caught:
        fetch(f"file:{file}", paths)
    assert caught.value.code == "permissions_unsafe"


def test_a_broken_keys_file_is_not_quoted(paths):
    descriptor = os.open(paths.keys_file, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, b"[keys]\nopenai = sk-unquoted-secret\n")
    os.close(descriptor)
    with pytest.raises(ConfigError) as caught:
        keys.read_keys(paths)
    assert caught.value.__cause__ is None
    assert "unquoted-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "damaged", ["keys = []", "keys = 'x'", "[keys]\na = 1", "keyring = 'x'", "[keyring]\nnames = [1]"]
)
def test_a_keys_file_of_another_shape_is_refused(paths, damaged):
    path = paths.keys_file
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(damaged)
    with pytest.raises(ConfigError) as caught:
        keys.read_stored(paths)
    assert caught.value.code == "config_invalid"


@pytest.mark.parametrize("value", ["", "  ", "two words", "two\nlines", "a\x1bkey", "a\tkey"])
def test_what_cannot_be_a_key_is_not_stored(paths, value):
    with pytest.raises(UsageError):
        keys.store_key(paths, "name", value)
    assert keys.read_keys(paths) == {}


@pytest.mark.parametrize(
    "text",
    [
        "key sk-abcdefgh12345678 here",
        "Authorization: Bearer abcdefghijkl",
        "https://user:passw0rd@example.org/x",
        "database_https://user:passw0rd@example.org/x",
        "AIzaSyA1234567890abcdefghijklmno",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----",
        "ghp_abcdefghijklmnopqrst1234",
    ],
)
def test_known_shapes_are_masked(text):
    shown = redact(text)
    assert "[redacted]" in shown
    for secret in ("abcdefgh12345678", "abcdefghijkl", "passw0rd", "SyA1234567890", "MIIabc"):
        assert secret not in shown


def test_loaded_keys_are_masked_and_ordinary_words_are_not():
    remember("hunter2-hunter2")
    assert redact("before hunter2-hunter2 after") == "before [redacted] after"
    remember("abc")
    assert redact("abc task-force https://example.org/a@b") == "abc task-force https://example.org/a@b"


def test_a_word_in_a_header_of_a_provider_is_no_credential_whatever_it_follows():
    remember_credentials({"headers": {"X-Author": "team-42 research", "Authorization": "Custom2 opensesame77"}})
    assert redact("the research of team-42 research") == "the research of [redacted]"
    assert redact("they said opensesame77") == "they said [redacted]"


SLOW_TO_READ: dict[str, Callable[[int], str]] = {
    "many dots before a scheme": lambda times: "a." * times + "://",
    "schemes": lambda times: "a://b:" * times,
    "bearers": lambda times: "bearer " * times,
    "spaces": lambda times: "bearer" + " " * times,
    "beginnings": lambda times: "-----BEGIN " * times,
    "words of a beginning": lambda times: "-----BEGIN " + "A " * times,
    "keys without an end": lambda times: "-----BEGIN PRIVATE KEY-----\nabc" * times,
}


@pytest.mark.parametrize("what", SLOW_TO_READ)
def test_a_text_is_looked_through_in_one_pass_whatever_it_says(what: str):
    text, twice = (SLOW_TO_READ[what](times) for times in (50, 100))
    patterns = {name: pattern for name, pattern in vars(redacting).items() if isinstance(pattern, re.Pattern)}
    assert patterns
    work = {name: (steps(pattern, text), steps(pattern, twice)) for name, pattern in patterns.items()}
    assert {name: counted for name, counted in work.items() if counted[1] > 2.1 * counted[0]} == {}


def test_a_long_text_is_looked_through_with_a_few_calls():
    said = "a." * 200_000 + "://"
    with at_most(100):
        assert redact(said) == said and find_secrets(said) == []


def test_the_tail_of_a_short_key_is_not_shown():
    assert keys.last_four("short") == "…"
    assert keys.last_four("long-enough-key-1234") == "…1234"
