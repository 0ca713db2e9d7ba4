"""`lash key`: how a key gets in, that it never gets out (contract 08 §6.8)."""

from __future__ import annotations

import shlex
import sys

import pytest
from support.cli import COMMAND, environment

SECRET = "very-private-value-7f3a"


def test_a_key_from_stdin_is_stored_privately_and_shown_by_its_end_only(lash, home):
    result = lash("key", "set", "openai", "--stdin", input=SECRET + "\n")
    assert (result.code, result.out) == (0, "")
    assert (home / "keys.toml").stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    listed = lash("key", "ls", "-o", "json")
    assert listed.json["items"] == [{"name": "openai", "source": "keys:openai", "last_four": "…7f3a"}]
    everything = result.err + listed.out + lash("config", "show").out + lash("doctor", "-o", "json", "--debug").out
    assert "very-private" not in everything


def test_a_key_as_an_argument_is_refused_and_not_repeated(lash, home):
    for arguments in (["key", "set", "openai", SECRET], ["key", "set", "openai", "--stdin", SECRET]):
        result = lash(*arguments, input="other\n")
        assert (result.code, result.out) == (2, "")
        assert "never given as an argument" in result.err
        assert "very-private" not in result.err
    assert not home.exists()


def test_a_key_in_place_of_its_name_is_refused_and_not_repeated(lash, home):
    pasted = "sk-verysecretvalue-0123456789"
    result = lash("key", "set", pasted, "--stdin", input="another-key-0123456789\n")
    assert (result.code, result.out) == (2, "")
    assert "a name for it" in result.err and "verysecret" not in result.err
    assert not home.exists()


def test_no_option_takes_a_key(lash):
    result = lash("key", "set", "openai", f"--value={SECRET}")
    assert result.code == 2
    assert "very-private" not in result.err


def test_without_a_terminal_the_prompt_is_not_shown(lash):
    result = lash("key", "set", "openai", "-o", "json")
    assert result.code == 2
    assert result.error["code"] == "not_a_tty"
    assert "--stdin" in result.error["hint"]


@pytest.mark.parametrize("text", ["", "\n", "two\nlines\n", "with space\n", "nul\x00\n"])
def test_a_bad_key_is_refused_and_nothing_is_stored(lash, home, text):
    result = lash("key", "set", "openai", "--stdin", input=text)
    assert result.code == 2
    assert "nothing was stored" in result.err
    assert not (home / "keys.toml").exists()


def test_setting_replaces_and_rm_forgets(lash):
    lash("key", "set", "a", "--stdin", input="first-key-value\n")
    assert lash("key", "set", "a", "--stdin", "-o", "json", input="other-key-value\n").json["replaced"] is True
    lash("key", "set", "b", "--stdin", input="third-key-value\n")
    assert lash("key", "rm", "a").code == 0
    assert lash("key", "ls", "-o", "name").out.split() == ["b"]
    missing = lash("key", "rm", "a", "-o", "json")
    assert (missing.code, missing.error["code"]) == (3, "key_not_found")


def test_a_key_file_others_can_read_is_refused(lash, home):
    lash("key", "set", "a", "--stdin", input="first-key-value\n")
    (home / "keys.toml").chmod(0o644)
    for arguments in (["key", "ls"], ["key", "rm", "a"], ["key", "set", "b", "--stdin"]):
        result = lash(*arguments, "-o", "json", input="x-key-value\n")
        assert (result.code, result.out) == (5, "")
        assert result.error["code"] == "permissions_unsafe"
        assert result.error["hint"] == f"chmod 600 {home / 'keys.toml'}"


def test_configured_sources_are_listed_without_running_a_command(lash, home, tmp_path):
    marker = tmp_path / "ran"
    lash("config", "set", "providers.one.key", f"cmd:touch {marker}")
    lash("config", "set", "providers.two.key", "env:TWO_KEY")
    items = lash("key", "ls", "-o", "json", env={"TWO_KEY": "abcdefghijklmnop"}).json["items"]
    assert items == [
        {"name": "one", "source": f"cmd:touch {marker}", "last_four": None},
        {"name": "two", "source": "env:TWO_KEY", "last_four": "…mnop"},
    ]
    assert not marker.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_the_hidden_prompt_never_echoes(home, tmp_path):
    import pexpect

    child = pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], "key", "set", "openai"], env=environment(home), cwd=str(tmp_path), timeout=30
    )
    child.expect("not shown")
    child.waitnoecho()
    child.sendline(SECRET)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert b"very-private" not in child.before
    assert SECRET in (home / "keys.toml").read_text()


def test_a_key_is_fetched_from_its_source_and_only_its_end_is_shown(lash, home, tmp_path):
    assert lash("key", "path").out == f"{home / 'keys.toml'}\n"
    lash("key", "set", "mine", "--stdin", input=SECRET + "\n")
    script = tmp_path / "pass.sh"
    script.write_text(f"#!/bin/sh\necho {SECRET}\n")
    script.chmod(0o700)
    lash("config", "set", "providers.p.key", f"cmd:{script}")
    lash("config", "set", "providers.q.key", "env:NOT_THERE")
    for name, source in (("mine", "keys:mine"), ("p", f"cmd:{script}")):
        done = lash("key", "test", name, "-o", "json")
        assert (done.code, done.json["source"], done.json["last_four"]) == (0, source, "…7f3a")
        assert "very-private" not in done.out + done.err + lash("key", "test", name).out
    absent = lash("key", "test", "q", "-o", "json")
    assert (absent.code, absent.out, absent.error["code"]) == (5, "", "key_missing")
    assert lash("key", "test", "loopback", "-o", "json").error["code"] == "key_missing"
    unknown = lash("key", "test", SECRET, "-o", "json")
    assert (unknown.code, unknown.out, unknown.error["code"]) == (3, "", "key_not_found")
    assert "very-private" not in unknown.err


def test_what_storing_a_key_says_to_use_it_with_makes_it_that_of_new_sessions(lash):
    stored = lash("key", "set", "openai", "--stdin", input=SECRET + "\n")
    (command,) = [line.partition("use it with: lash ")[2] for line in stored.err.splitlines()]
    assert lash(*shlex.split(command)).code == 0
    (openai,) = [one for one in lash("provider", "ls", "-o", "json").json["items"] if one["name"] == "openai"]
    assert (openai["key"], openai["default"]) == ("keys:openai", True)
    again = lash("key", "set", "openai", "--stdin", input=SECRET + "\n")
    (command,) = [line.partition("use it with: lash ")[2] for line in again.err.splitlines()]
    assert lash(*shlex.split(command)).code == 0
    other = lash("key", "set", "other", "--stdin", input=SECRET + "\n")
    assert "lash provider add other --base-url URL --key keys:other\n" in other.err


def test_no_file_tool_looks_into_a_file_that_a_key_comes_from(lash, home, tmp_path) -> None:
    key = tmp_path / "project" / "key.txt"
    key.parent.mkdir()
    key.write_text("canary-of-a-file\n")
    key.chmod(0o600)
    lash("config", "set", "providers.mine.key", f"file:{key}")
    calls = ('read_file {"path": "key.txt"}', 'grep {"pattern": "canary"}', 'write {"path": "key.txt", "content": ""}')
    script = "\n".join(f"!tool {call}" for call in calls)
    done = lash("turn", "s", "--or-open", script, "--provider", "loopback", "--approve", "write=auto", cwd=key.parent)
    assert done.code == 0
    said = lash("log", "s", "-o", "json").out
    assert "canary-of" not in said and "key.txt is outside of the directories" in said
    assert key.read_text() == "canary-of-a-file\n"


def test_a_file_of_a_key_that_is_named_from_where_the_session_works_is_kept_from_its_tools_anywhere(lash, tmp_path):
    key = tmp_path / "project" / "key.txt"
    key.parent.mkdir()
    key.write_text("canary-of-a-file\n")
    lash("config", "set", "providers.mine.key", "file:key.txt")
    lash("open", "s", cwd=key.parent)
    for directory in (key.parent, tmp_path):
        lash("turn", "s", '!tool read_file {"path": "key.txt"}', "--provider", "loopback", cwd=directory)
    said = lash("log", "s", "-o", "json").out
    assert "canary-of" not in said and "key.txt is outside of the directories" in said
