"""What stdin contributes to a prompt, with real pipes, sockets and devices (contract 08 §6.3).

The verb in front does not matter here, so a few lines stand in for it: they
print the items `read_prompt` returned.
"""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys

import pytest
from support.cli import environment
from support.processes import start_process

VERB = """
import sys
from lash_cli.cli import failure, invocation
from lash_cli.cli.globals import hoist
options, rest = hoist(sys.argv[1:])
invocation.begin(options)
def verb():
    import json
    from lash_cli.cli.stdin import read_prompt
    items = read_prompt(rest[0] if rest else None)
    print(json.dumps([[item.text, item.label] for item in items]))
    return 0
sys.exit(failure.run(verb))
"""
QUICK = ("-c", "input.stdin_wait=0.2")


def read(home, *args, stdin=subprocess.DEVNULL, data=None, env=None):
    streams = {"input": data} if data is not None else {"stdin": stdin}
    done = subprocess.run(
        [sys.executable, "-c", VERB, *args, "-o", "json"],
        env=environment(home, env), capture_output=True, timeout=60, check=False, **streams,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def items(outcome):
    code, out, err = outcome
    assert code == 0, err
    return json.loads(out)


def refused(outcome, code):
    status, out, err = outcome
    assert (status, out) == (2, "")
    error = json.loads(err.splitlines()[-1])
    assert error["code"] == code, error
    return error


def test_a_prompt_alone_is_one_item(home):
    assert items(read(home, "hello")) == [["hello", None]]


@pytest.mark.parametrize("argument", [[], ["-"]])
def test_without_a_prompt_a_pipe_is_the_prompt(home, argument):
    assert items(read(home, *argument, data=b"line one\nline two\n")) == [["line one\nline two", None]]


def test_a_file_beside_a_prompt_becomes_a_second_item_tagged_stdin(home, tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("from the file\n")
    with path.open("rb") as file:
        assert items(read(home, "explain", stdin=file)) == [["explain", None], ["from the file\n", "stdin"]]


def test_a_pipe_beside_a_prompt_becomes_a_second_item_and_an_empty_one_adds_nothing(home):
    assert items(read(home, "explain", data=b"piped")) == [["explain", None], ["piped", "stdin"]]
    assert items(read(home, "explain", data=b"")) == [["explain", None]]


def test_dev_null_is_never_read(home):
    assert items(read(home, "hello")) == [["hello", None]]
    # With LASH_SESSION set the text may have stood where a session stands.
    assert "behind the SESSION" in refused(read(home), "empty_prompt")["hint"]


def test_a_socket_is_never_read_even_with_data_in_it(home):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"do not read this")
        assert items(read(home, "hello", stdin=theirs)) == [["hello", None]]
        refused(read(home, stdin=theirs), "empty_prompt")
        assert theirs.recv(100) == b"do not read this"


def test_a_terminal_is_never_read(home):
    ours, theirs = pty.openpty()
    try:
        assert items(read(home, "hello", stdin=theirs)) == [["hello", None]]
        refused(read(home, stdin=theirs), "usage")
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("argument", [["hello"], []])
def test_an_open_pipe_that_stays_silent_times_out_with_nothing_sent(home, argument):
    read_end, write_end = os.pipe()
    try:
        error = refused(read(home, *argument, *QUICK, stdin=read_end), "stdin_timeout")
    finally:
        os.close(read_end)
        os.close(write_end)
    assert "0.2 s" in error["message"] and "nothing was sent" in error["message"]


def test_an_open_pipe_is_skipped_with_no_stdin(home):
    read_end, write_end = os.pipe()
    try:
        assert items(read(home, "hello", "--no-stdin", stdin=read_end)) == [["hello", None]]
        assert items(read(home, "hello", stdin=read_end, env={"LASH_NO_STDIN": "1"})) == [["hello", None]]
        refused(read(home, "--no-stdin", stdin=read_end), "empty_prompt")
    finally:
        os.close(read_end)
        os.close(write_end)


def test_a_pipe_that_began_in_time_may_take_as_long_as_it_needs(home):
    read_end, write_end = os.pipe()
    process = start_process(
        [sys.executable, "-c", VERB, "hello", "-c", "input.stdin_wait=30"],
        env=environment(home), stdin=read_end, stdout=subprocess.PIPE,
    )  # fmt: skip
    os.close(read_end)
    os.write(write_end, b"first ")
    os.write(write_end, b"second")
    os.close(write_end)
    out, _ = process.communicate(timeout=60)
    assert json.loads(out) == [["hello", None], ["first second", "stdin"]]


@pytest.mark.parametrize("data", [b"", b"\n", b"  \n\t\n"])
def test_blank_input_is_an_empty_prompt(home, data):
    refused(read(home, data=data), "empty_prompt")


@pytest.mark.parametrize("argument", ["", "   "])
def test_a_blank_prompt_is_refused_before_stdin_is_looked_at(home, argument):
    refused(read(home, argument, data=b"text"), "empty_prompt")


def test_invalid_utf8_names_the_byte(home):
    error = refused(read(home, data=b"abc\xff\xfe"), "prompt_not_utf8")
    assert error["details"]["byte_offset"] == 3
    error = refused(read(home, "hello", data=b"\xc3"), "prompt_not_utf8")
    assert error["details"]["byte_offset"] == 0


def test_an_argument_that_is_no_utf8_names_the_byte(home):
    error = refused(read(home, os.fsdecode(b"ab\xff")), "prompt_not_utf8")
    assert error["details"]["byte_offset"] == 2
    assert "PROMPT" in error["message"]


def test_more_than_32_mib_is_refused_from_a_file_and_from_a_pipe(home, tmp_path):
    path = tmp_path / "big.txt"
    with path.open("wb") as file:
        file.truncate(33 * 1024 * 1024)
    with path.open("rb") as file:
        refused(read(home, stdin=file), "prompt_too_large")
    refused(read(home, data=b"x" * (33 * 1024 * 1024)), "prompt_too_large")


def test_exactly_32_mib_is_accepted(home):
    (item,) = items(read(home, data=b"x" * (32 * 1024 * 1024)))
    assert len(item[0]) == 32 * 1024 * 1024


def test_a_closed_stdin_is_as_good_as_none(home):
    command = f"exec {sys.executable} -c '{VERB}' hello <&-"
    done = subprocess.run(["sh", "-c", command], env=environment(home), capture_output=True, timeout=60, check=False)
    assert json.loads(done.stdout) == [["hello", None]]


@pytest.mark.parametrize("wait", ["30d", "9" * 30 + "d"])
def test_a_wait_that_is_longer_than_any_is_waited_all_the_same(home, wait):
    assert items(read(home, "-c", f"input.stdin_wait={wait}", "hello", data=b"late")) == [
        ["hello", None],
        ["late", "stdin"],
    ]
