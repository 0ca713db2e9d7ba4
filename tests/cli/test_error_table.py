"""What is refused before anything happens: every row through the real entry point (contract 08 §6.2–§6.4).

Each row is one command that must fail: stdout stays empty, stderr is one JSON
line with every field of the contract, the status is the one of the table, and
the store holds the same rows afterwards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import run_lash
from support.error_world import CANARY, ErrorWorld, error_world, told

MIB = 1024 * 1024


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ErrorWorld]:
    with error_world(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ErrorWorld]:
    """A home for whatever changes nothing: each of its tests shows that it did not."""
    with error_world(tmp_path_factory.mktemp("unchanged")) as made:
        yield made


USAGE = [
    ("frobnicate",),
    ("turn", "demo", "hi", "--nope"),
    ("turn", "demo", "hi", "--timeout", "soon"),
    ("turn", "demo", "hi", "--max-steps", "0"),
    ("turn", "demo", "hi", "--max-steps", "many"),
    ("turn", "demo", "hi", "--if-busy", "queue"),
    ("turn", "demo", "hi", "--if-busy", ""),
    ("resume", "demo", "--if-busy", ""),
    ("turn", "demo", "hi", "--model", ""),
    ("turn", "demo", "hi", "--model", "two words"),
    ("open", "demo", "--model", ""),
    ("set", "demo", "model="),
    ("model", "default", "two words"),
    ("turn", "demo", "hi", "--approve", "execute=maybe"),
    ("turn", "demo", "hi", "--turn-id", "no spaces please"),
    ("turn", "demo", "hi", "--system", "@/does/not/exist"),
    ("turn", "demo", "hi", "a third word"),
    ("turn", "--ephemeral", "demo", "hi"),
    ("turn", "--or-open", "no/slash", "hi"),
    ("turn", "demo", "hi", "--color", "purple"),
    ("open", "no/slash"),
    ("open", "x" * 129),
    ("open", "new", "--label", "novalue"),
    ("open", "demo", "--new", "--fresh"),
    ("open", "new", "--name", "two\nlines"),
    ("open", "new", "--name", "@last"),
    ("show",),
    ("show", "demo", "--fields", "no_such_field"),
    ("show", "demo", "--format", "{no_such_field}"),
    ("log", "demo", "--last", "some"),
    ("ls", "--status", "asleep"),
    ("cancel",),
    ("cancel", "demo", "--wait=soon"),
    ("park",),
    ("park", "demo", "--wait=soon"),
    ("resume",),
    ("close",),
    ("rm", "--yes"),
    ("enqueue", "demo", "hi", "--boundary", "after_work"),
    ("enqueue", "demo", "hi", "--or-next"),
    ("enqueue", "demo", "hi", "--key"),
    ("enqueue", "demo", "hi", "--now", "--boundary", "soon"),
    ("enqueue", "demo", "hi", "--wait=soon"),
    ("queue", "nope"),
    ("queue", "ls"),
    ("queue", "show"),
    ("queue", "cancel"),
    ("queue", "cancel", "--key", "k"),
    ("queue", "cancel-suffix", "demo"),
    ("cancel-suffix", "demo", "in_1", "--key", "k"),
    ("queue", "edit"),
    ("queue", "edit", "in_1", "--file", "/does/not/exist"),
    ("queue", "edit", "in_1", "--recover"),
    ("queue", "hold"),
    ("queue", "wait-batch", "qwb:1", "--timeout", "soon"),
    ("queue", "abandon"),
    ("work",),
    ("work", "demo", "--all"),
    ("work", "demo", "--on-failure", "panic"),
    ("work", "demo", "--on-failure", "", "--until-empty"),
    ("work", "demo", "--concurrency", "0"),
    ("work", "demo", "--grace", "soon"),
    ("wait",),
    ("wait", "demo", "--for", "process=p_1"),
    ("wait", "demo", "--for", "noon"),
    ("wait", "demo", "--timeout", "soon"),
    ("version", "extra"),
    ("doctor", "extra"),
    ("config", "set", "nope.key", "1"),
    ("config", "set", "defaults.output", "yaml"),
    ("config", "set", "providers.mine.key", "plain-secret-text"),
    ("config", "nope"),
    ("key", "set", "bad name", "--stdin"),
    ("key", "set", "other", "--stdin"),
]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_a_malformed_command_is_a_usage_error(unchanged: ErrorWorld, arguments: tuple[str, ...]) -> None:
    error = unchanged.refused(arguments, 2, "usage")
    assert error["hint"], "a usage error says what to do instead"


def test_a_malformed_option_is_told_in_the_format_asked_for_first_or_last(unchanged: ErrorWorld) -> None:
    for arguments in (("-o", "json", "ls", "--color", "purple"), ("ls", "--color", "purple", "-o", "json")):
        told(unchanged.lash(*arguments), 2, "usage")


NAMED = [
    ("show", "{}"),
    ("log", "{}"),
    ("turn", "{}", "hi"),
    ("cancel", "{}"),
    ("park", "{}"),
    ("resume", "{}"),
    ("resume", "{}", "hi"),
    ("close", "{}"),
    ("close", "demo", "{}"),
    ("rm", "{}", "--yes"),
    ("rm", "demo", "{}", "--yes"),
    ("rm", "{}", "--dry-run"),
    ("rm", "{}", "--with-children", "--yes"),
    ("set", "{}", "max_steps=1"),
    ("rename", "{}", "other"),
    ("label", "{}", "a=b"),
    ("export", "{}"),
    ("export", "demo", "{}", "--as", "json"),
    ("usage", "{}"),
    ("usage", "{}", "--by", "day"),
    ("open", "child", "--parent", "{}"),
    ("enqueue", "{}", "hi"),
    ("enqueue", "{}", "hi", "--now"),
    ("queue", "ls", "{}"),
    ("queue", "show", "in_1", "--session", "{}"),
    ("queue", "cancel", "in_1", "--session", "{}"),
    ("queue", "cancel-suffix", "{}", "in_1"),
    ("queue", "edit", "in_1", "--session", "{}", "--file", __file__),
    ("queue", "hold", "{}"),
    ("queue", "release", "{}"),
    ("queue", "batches", "{}"),
    ("queue", "cancel-batch", "qwb:1", "--session", "{}"),
    ("queue", "wait-batch", "qwb:1", "--session", "{}"),
    ("queue", "revoke-waits", "{}", "--yes"),
    ("work", "demo", "{}", "--until-empty"),
    ("wait", "{}"),
]


@pytest.mark.parametrize("pattern", NAMED, ids=" ".join)
def test_every_verb_refuses_a_session_it_cannot_name(unchanged: ErrorWorld, pattern: tuple[str, ...]) -> None:
    def naming(reference: str) -> tuple[str, ...]:
        return tuple(word.format(reference) for word in pattern)

    unknown = unchanged.refused(naming("dem0"), 3, "session_not_found")
    assert unknown["details"]["nearest"][0].startswith("demo") and "demo" in unknown["hint"]
    ambiguous = unchanged.refused(naming("abcd"), 2, "session_ambiguous")
    assert {row["id"] for row in ambiguous["details"]["candidates"]} == {"abcd-1", "abcd-2"}
    deleted = unchanged.refused(naming("gone"), 3, "session_deleted")
    assert deleted["hint"]


CONFLICTS = [
    (("open", "gone"), 3, "session_deleted"),
    (("turn", "--or-open", "gone", "hi"), 3, "session_deleted"),
    (("turn", "@last", "hi"), 3, "session_not_found"),
    (("show", "no/such id"), 3, "session_not_found"),
    (("show", ""), 3, "session_not_found"),
    (("usage", ""), 3, "session_not_found"),
    (("turn", "no/such id", "hi"), 3, "session_not_found"),
    (("turn", "demo", "hi", "--out", "/does/not/exist/answer"), 2, "output_unwritable"),
    (("show", "demo", "--turn", "t_nope"), 3, "turn_unknown"),
    (("log", "demo", "--turn", "t_nope"), 3, "turn_unknown"),
    (("cancel", "demo", "--turn", "t_nope"), 3, "turn_unknown"),
    (("ls", "--cursor", "nope"), 2, "cursor_invalid"),
    (("key", "rm", "nope"), 3, "key_not_found"),
    (("queue", "show", "in_nope"), 3, "input_not_found"),
    (("queue", "cancel", "in_nope"), 3, "input_not_found"),
    (("cancel-suffix", "demo", "in_nope"), 3, "input_not_found"),
    (("queue", "edit", "in_nope", "--file", __file__), 3, "input_not_found"),
    (("queue", "cancel-batch", "qwb:nope"), 3, "batch_not_found"),
    (("queue", "wait-batch", "qwb:nope"), 3, "batch_not_found"),
    (("queue", "abandon", "tic:nope"), 3, "claim_not_found"),
    (("wait", "demo", "--for", "turn=t_nope"), 3, "turn_unknown"),
    (("wait", "demo", "--for", "input=in_nope"), 3, "input_not_found"),
    (("enqueue", "demo", "!text changed", "--key", "k1"), 4, "source_key_conflict"),
    (("enqueue", "demo", "hi", "--now"), 4, "no_active_turn"),
    (("enqueue", "demo", "hi", "--turn", "t_1"), 4, "no_active_turn"),
    (("enqueue", "shut", "hi"), 4, "session_closed"),
    (("queue", "cancel", "--key", "k1", "--session", "demo"), 4, "input_already_completed"),
    (("cancel-suffix", "demo", "--key", "k1"), 4, "input_already_completed"),
    (("work", "shut", "--until-empty"), 4, "session_closed"),
    (("enqueue", "demo", "hi", "--key", "a\nb"), 2, "invalid_key"),
    (("turn", "demo", "hi", "--key", "a\nb"), 2, "invalid_key"),
    (("resume", "demo", "hi", "--key", ""), 2, "invalid_key"),
    (("queue", "cancel", "--key", "\x1b", "--session", "demo"), 2, "invalid_key"),
    (("queue", "edit", "in_1"), 2, "not_a_tty"),
    (("queue", "revoke-waits", "demo"), 2, "confirmation_required"),
    (("open", "demo", "--new"), 4, "session_exists"),
    (("open", "demo-name", "--new"), 4, "session_exists"),
    (("open", "demo", "--name", "another"), 4, "session_exists"),
    (("open", "other", "--name", "demo-name"), 4, "session_name_taken"),
    (("turn", "demo", "!text changed", "--key", "k1"), 4, "source_key_conflict"),
    (("resume", "demo", "!text changed", "--key", "k1"), 4, "source_key_conflict"),
    (("cancel", "demo"), 4, "no_active_turn"),
    (("cancel", "demo", "--wait=1s"), 4, "no_active_turn"),
    (("cancel", "demo", "--turn", "t_1"), 4, "completion_won"),
    (("turn", "shut", "hi"), 4, "session_closed"),
    (("park", "shut"), 4, "session_closed"),
    (("rm", "demo"), 2, "confirmation_required"),
    (("rm", "demo", "abcd-1", "--no-input"), 2, "confirmation_required"),
    (("open", "demo", "--fresh"), 2, "confirmation_required"),
    (("key", "set", "other"), 2, "not_a_tty"),
    (("turn", "demo", "hi", "--provider", "nope"), 5, "provider_unconfigured"),
    (("open", "new", "--provider", "nope"), 5, "provider_unconfigured"),
    (("turn", "demo", "hi", "--profile", "nope"), 5, "config_invalid"),
]


@pytest.mark.parametrize(("arguments", "status", "code"), CONFLICTS, ids=lambda value: str(value))
def test_a_conflict_with_what_is_stored_changes_nothing(
    unchanged: ErrorWorld, arguments: tuple[str, ...], status: int, code: str
) -> None:
    unchanged.refused(arguments, status, code)


@pytest.mark.parametrize("form", ["jsonl", "name"])
def test_the_other_machine_formats_tell_the_same_error(unchanged: ErrorWorld, form: str) -> None:
    for arguments in (("turn", "dem0", "hi"), ("show", "dem0")):
        told(unchanged.lash(*arguments, "-o", form), 3, "session_not_found")


def test_a_person_gets_the_message_and_the_next_command_and_no_traceback(unchanged: ErrorWorld) -> None:
    for options in ((), ("-o", "table"), ("-q",)):
        done = unchanged.lash("show", "dem0", *options)
        assert (done.code, done.out) == (3, "")
        first, second = done.err.splitlines()
        assert first.startswith("error: ") and second.startswith("hint: ")


def test_a_key_is_not_repeated_where_it_does_not_belong(unchanged: ErrorWorld) -> None:
    for arguments, code in (
        (("key", "set", "mine", CANARY), "usage"),
        (("key", "rm", CANARY), "key_not_found"),
        (("config", "set", "providers.mine.key", CANARY), "usage"),
    ):
        done = unchanged.lash(*arguments, "-o", "json")
        assert (done.out, done.error["code"]) == ("", code)
    assert unchanged.lash("key", "ls", "-o", "json").json["items"][0]["last_four"] == f"…{CANARY[-4:]}"


@pytest.mark.parametrize("verb", ["turn", "resume", "enqueue"])
def test_prompts_that_cannot_be_sent(unchanged: ErrorWorld, verb: str, tmp_path: Path) -> None:
    unchanged.refused((verb, "demo", ""), 2, "empty_prompt")
    unchanged.refused((verb, "demo", " \n"), 2, "empty_prompt")
    unchanged.refused((verb, "demo", "-"), 2, "empty_prompt", input=b" \n\t")
    error = unchanged.refused((verb, "demo", "-"), 2, "prompt_not_utf8", input=b"abc\xff")
    assert error["details"]["byte_offset"] == 3
    error = unchanged.refused((verb, "demo", "look at this"), 2, "prompt_not_utf8", input=b"ab\xc3")
    assert error["details"]["byte_offset"] == 2
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(33 * MIB)
    with big.open("rb") as file:
        error = unchanged.refused((verb, "demo", "-"), 2, "prompt_too_large", stdin=file)
    assert error["details"]["limit_bytes"] == 32 * MIB
    unchanged.refused((verb, "demo", "look"), 2, "prompt_too_large", input=b"x" * (33 * MIB))
    big.unlink()


NOT_TEXT = os.fsdecode(b"a\xff")


@pytest.mark.parametrize(
    "arguments",
    [
        ("turn", "demo", NOT_TEXT),
        ("turn", "demo", "hi", "--key", NOT_TEXT),
        ("enqueue", "demo", NOT_TEXT),
        ("enqueue", "demo", "hi", "--key", NOT_TEXT),
        ("queue", "hold", "demo", "--reason", NOT_TEXT),
        ("turn", "demo", "hi", f"--system={NOT_TEXT}"),
        ("open", "new", "--name", NOT_TEXT),
        ("show", NOT_TEXT),
        ("rm", NOT_TEXT, "--yes"),
        ("cancel", "demo", "--reason", NOT_TEXT),
        ("config", "set", "defaults.model", NOT_TEXT),
        (NOT_TEXT,),
    ],
    ids=ascii,
)
def test_an_argument_that_is_no_text_names_the_byte(unchanged: ErrorWorld, arguments: tuple[str, ...]) -> None:
    error = unchanged.refused(arguments, 2, "usage")
    assert error["details"]["byte_offset"] == next(word for word in arguments if NOT_TEXT in word).index("a\udcff") + 1


def test_an_override_that_is_no_text_is_config_invalid(unchanged: ErrorWorld) -> None:
    unchanged.refused(("turn", "demo", "hi", "-c", f"defaults.model={NOT_TEXT}"), 5, "config_invalid")
    unchanged.refused(("turn", "demo", "hi"), 5, "config_invalid", env={"LASH_MODEL": NOT_TEXT})


def test_a_turn_without_any_prompt_sends_nothing(unchanged: ErrorWorld) -> None:
    unchanged.refused(("turn", "demo"), 2, "empty_prompt")
    unchanged.refused(("turn", "demo", "--no-stdin"), 2, "empty_prompt", input=b"not read")
    unchanged.refused(("turn", "demo"), 2, "empty_prompt", input=b"")


@pytest.mark.parametrize(
    "arguments",
    [
        ("turn", "demo"),
        ("turn", "demo", "hi"),
        ("resume", "demo", "hi"),
        ("enqueue", "demo"),
        ("enqueue", "demo", "hi"),
    ],
)
def test_an_open_pipe_as_stdin_times_out(unchanged: ErrorWorld, arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    try:
        unchanged.refused((*arguments, "-c", "input.stdin_wait=0.1"), 2, "stdin_timeout", stdin=read)
    finally:
        os.close(read)
        os.close(write)


def test_a_key_from_an_open_pipe_times_out_and_keeps_the_old_one(unchanged: ErrorWorld) -> None:
    before = (unchanged.home / "keys.toml").read_text()
    read, write = os.pipe()
    try:
        unchanged.refused(
            ("key", "set", "mine", "--stdin", "-c", "input.stdin_wait=0.1"), 2, "stdin_timeout", stdin=read
        )
    finally:
        os.close(read)
        os.close(write)
    unchanged.refused(("key", "set", "mine", "--stdin"), 2, "usage", input=b"\n")
    unchanged.refused(("key", "set", "mine", "--stdin"), 2, "usage", input=b"two words")
    unchanged.refused(("key", "set", "mine", "--stdin"), 2, "usage", input=b"x" * (65 * 1024))
    assert (unchanged.home / "keys.toml").read_text() == before


NEEDS_SETTINGS = [
    ("ls",), ("show", "demo"), ("turn", "demo", "hi"), ("open", "new"), ("config", "show"),
    ("close", "demo"), ("rm", "demo", "--yes"), ("park", "demo"), ("resume", "demo"), ("cancel", "demo"),
    ("enqueue", "demo", "hi"), ("queue", "hold", "demo"), ("queue", "cancel", "in_1"), ("work", "demo"),
]  # fmt: skip


@pytest.mark.parametrize("arguments", [row for row in NEEDS_SETTINGS if row[0] not in ("ls", "show")], ids=" ".join)
def test_a_typo_in_the_configuration_names_file_line_and_nearest_key(
    world: ErrorWorld, arguments: tuple[str, ...]
) -> None:
    world.configure(more='\n[defaults]\nmodle = "x"\n')
    error = world.refused(arguments, 5, "config_invalid")
    number = (world.home / "config.toml").read_text().splitlines().index('modle = "x"') + 1
    assert f"{world.home / 'config.toml'}:{number}: " in error["message"]
    assert "did you mean defaults.model?" in error["message"]


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ("\n[defaults\n", "config.toml:"),
        ('\n[defaults]\noutput = "yaml"\n', "defaults.output"),
        ("\n[input]\nstdin_wait = true\n", "input.stdin_wait"),
        ("\n[lease]\nttl_ms = 0\n", "lease.ttl_ms"),
        ('\n[providers.other]\nkey = "plain-secret-text"\n', "providers.other.key"),
        ('\n[profiles.ci]\ndefaults.modle = "x"\n', "defaults.model"),
    ],
)
def test_a_wrong_value_in_the_configuration_names_its_line(world: ErrorWorld, more: str, part: str) -> None:
    world.configure(more=more)
    error = world.refused(("turn", "demo", "hi"), 5, "config_invalid")
    assert f"{world.home / 'config.toml'}:" in error["message"] and part in error["message"]
    assert "plain-secret-text" not in json.dumps(error)


def test_bytes_that_are_no_text_in_the_configuration_are_config_invalid(world: ErrorWorld) -> None:
    (world.home / "config.toml").write_bytes(b'[defaults]\nmodel = "\xff"\n')
    world.refused(("turn", "demo", "hi"), 5, "config_invalid")
    world.refused(("config", "set", "defaults.model", "m"), 5, "config_invalid")


def test_a_broken_configuration_is_not_edited(world: ErrorWorld) -> None:
    world.configure(more="\n[defaults\n")
    before = (world.home / "config.toml").read_bytes()
    world.refused(("config", "set", "defaults.model", "m"), 5, "config_invalid")
    assert (world.home / "config.toml").read_bytes() == before


def test_what_the_environment_and_overrides_say_is_checked_like_the_file(unchanged: ErrorWorld) -> None:
    error = unchanged.refused(("turn", "demo", "hi", "-c", "defaults.modle=x"), 5, "config_invalid")
    assert "-c" in error["message"] and "defaults.model" in error["message"]
    error = unchanged.refused(("turn", "demo", "hi"), 5, "config_invalid", env={"LASH_CFG__defaults__modle": "x"})
    assert "LASH_CFG__defaults__modle" in error["message"]
    unchanged.refused(("turn", "demo", "hi"), 5, "config_invalid", env={"LASH_OUTPUT": "yaml"})


@pytest.mark.parametrize("option", [("-c", "defaults.modle=x"), ("--profile", "nope")])
@pytest.mark.parametrize("verb", [("ls",), ("show", "demo"), ("log", "demo"), ("queue", "ls", "demo")])
def test_what_this_command_says_of_the_configuration_is_checked_by_readers_too(
    unchanged: ErrorWorld, verb: tuple[str, ...], option: tuple[str, str]
) -> None:
    """`-o` said how to answer, so nothing read the settings, and what was misspelt beside it counted for nothing."""
    error = unchanged.refused((*verb, *option), 5, "config_invalid")
    assert option[1].partition("=")[0] in error["message"]


def test_what_was_done_beside_a_wrong_configuration_is_not_told_to_have_failed(world: ErrorWorld) -> None:
    wrong = ("-c", "defaults.modle=x")
    for arguments in (
        ("config", "set", "lease.ttl_ms", "9000", *wrong),
        ("config", "unset", "lease.ttl_ms", *wrong),
        ("config", "trust", "--revoke", str(world.home), *wrong),
        ("key", "rm", "mine", *wrong),
    ):
        done = world.lash(*arguments)
        assert (done.code, done.err.count("error:")) == (0, 0), (arguments, done.err)


def test_the_help_and_the_version_need_no_configuration(world: ErrorWorld) -> None:
    world.configure(more="\n[defaults\n")
    for arguments in (("--version",), ("--help",), ("turn", "--help"), ("config", "path", "-o", "json")):
        done = run_lash(arguments, home=world.home)
        assert (done.code, done.err) == (0, ""), done.err
