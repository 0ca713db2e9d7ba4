"""Every example of every topic of `lash help` runs, in order, on one home per topic, as a reader would type it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sys
import tomllib
from pathlib import Path

import pytest
from support.cli import run_lash
from support.guides import ROOT, blocks, fenced, reader, run, run_shell
from support.terminal import Terminal

from lash_cli import docs
from lash_cli.cli.schemas import KINDS
from lash_cli.cli.serving import Verbs
from lash_cli.cli.table import COMMANDS
from lash_cli.settings.loading import check_document
from lash_cli.settings.schema import find_option, fixed_keys, parse_text

README = (ROOT / "README.md").read_text(encoding="utf-8")
# What one run of the examples is not enough for has a test of its own, which runs them too.
ELSEWHERE = {
    "answers": "test_answers_guide.py", "durability": "test_durability_guide.py", "history": "test_history_guide.py",
    "providers": "test_providers_guide.py", "queue": "test_queue_guide.py", "tail": "test_tail.py",
}  # fmt: skip
# What has its example only in its own help.
LOOKED_UP = {
    "help", "version", "queue add", "queue show", "queue cancel-suffix", "queue batches", "queue cancel-batch",
    "queue wait-batch", "queue abandon", "queue revoke-waits", "config edit", "config schema", "config trust",
    "key test", "key path", "db path", "db restore", "db vacuum", "db migrate",
}  # fmt: skip
# Runs programs one after the other, each with names of its own: only the imports are shared.
_EACH = """
import sys
for number, program in enumerate(sys.argv[1:], 1):
    print("program", number, flush=True)
    exec(compile(program, f"program {number}", "exec"), {"__name__": "__main__"})
"""
HERE = [topic for topic in docs.names() if topic not in ELSEWHERE]


@pytest.mark.parametrize("topic", [topic for topic in HERE if blocks(topic, "sh") or blocks(topic, "python")])
def test_every_example_of_a_topic_runs(topic: str, tmp_path: Path) -> None:
    environment = reader(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    script = "\n".join(blocks(topic, "sh"))
    if "jq " in script and shutil.which("jq") is None:
        assert not os.environ.get("CI"), "no jq here; install it, for example: apt-get install jq"
        pytest.skip("no jq here")
    run_shell(script, work, environment)
    programs = blocks(topic, "python")
    if programs:
        run([sys.executable, "-c", _EACH, *programs], work, environment)


@pytest.mark.parametrize("topic", docs.names())
def test_what_is_shown_as_data_is_data(topic: str) -> None:
    for text in blocks(topic, "toml"):
        assert tomllib.loads(text)
        check_document(text, "config.toml")
    for text in blocks(topic, "json"):
        decoder, rest = json.JSONDecoder(), text.strip()
        while rest:
            document, end = decoder.raw_decode(rest)
            assert document
            rest = rest[end:].strip()


def test_an_example_is_either_run_or_has_a_language_that_is_not() -> None:
    known = {"sh", "python", "terminal", "toml", "json", ""}
    for topic in docs.names():
        assert docs.read(topic).count("```") == 2 * len(fenced(topic)), topic
        assert {name for name, _ in fenced(topic)} <= known, topic
        # What is not run is a picture; no command may hide in one.
        for text in blocks(topic, ""):
            assert not re.search(r"^lash ", text, flags=re.MULTILINE), (topic, text)
    for topic, name in ELSEWHERE.items():
        text = (Path(__file__).parent / name).read_text(encoding="utf-8")
        assert f'blocks("{topic}", "sh")' in text and "run_shell(" in text, topic


def typed_at_a_terminal() -> list[tuple[str, str]]:
    """Every line of the guide that needs a terminal, with its topic."""
    return [(topic, line) for topic in docs.names() for text in blocks(topic, "terminal") for line in text.splitlines()]


@pytest.mark.parametrize(("topic", "line"), typed_at_a_terminal())
def test_what_needs_a_terminal_runs_at_one(topic: str, line: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\necho ' written in an editor' >> \"$1\"\n")
    editor.chmod(0o700)
    program, verb, session, *_ = words = shlex.split(line)
    assert program == "lash" and run_lash(["open", session], home=home).code == 0
    terminal = Terminal(home, *words[1:], VISUAL=str(editor))
    try:
        if verb == "chat":
            terminal.wait_for("❯")
            terminal.press("written at the prompt\r")
            terminal.wait_for("You said: written")
            terminal.wait_for("│ idle")
            terminal.press("\x04")
        assert terminal.ended() == 0, (topic, terminal.text)
    finally:
        terminal.close()
    said = run_lash(["log", session], home=home).out
    assert "written" in said
    if "Dear reader," in words:
        assert "Dear reader, written in an editor" in " ".join(said.split())
    if "--record" in words:
        lines = (tmp_path / words[words.index("--record") + 1]).read_text().splitlines()
        assert [json.loads(lines[place])["type"] for place in (0, -1)] == ["stream_start", "stream_end"]


def test_every_verb_has_an_example_but_those_an_administrator_looks_up() -> None:
    """Each has one in its help; in the guide a reader meets it where it is of use."""
    shown = "\n".join(text for topic in docs.names() for name, text in fenced(topic) if name in ("sh", "terminal"))
    verbs = [f"{entry.name} {verb.name}" for entry in COMMANDS for verb in entry.verbs]
    names = [*verbs, *(entry.name for entry in COMMANDS if not entry.verbs)]
    missing = {name for name in names if not re.search(rf"\blash (-\S+ )*{name}\b", shown)}
    assert missing <= LOOKED_UP, sorted(missing - LOOKED_UP)


def test_no_text_deletes_a_session_that_a_later_one_goes_on_with() -> None:
    """Each text is run on a home of its own; who reads on has one home, where an id is used once."""
    readme = "\n".join(re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE))
    deleted: set[str] = set()
    for script in (readme, *("\n".join(blocks(topic, "sh")) for topic in docs.names())):
        for name in deleted:
            assert not re.search(rf"^lash \w+ {re.escape(name)}\b", script, re.MULTILINE), (name, script)
        deleted |= set(re.findall(r"^lash rm (\S+) --yes", script, re.MULTILINE))
        if "lash db purge" in script:
            deleted.clear()


def test_every_key_of_the_configuration_is_told_with_its_default() -> None:
    told = {}
    for row in re.findall(r"^\| (`[a-z]+\.\w+`.*?) \| (.*?) \| ", docs.read("configuration"), re.MULTILINE):
        for key, default in zip(*(cell.replace("`", "").split(", ") for cell in row), strict=True):
            told[key] = None if default == "none" else parse_text(find_option(key)[0], default)
    assert told == {key: find_option(key)[0].default for key in fixed_keys()}


def test_every_topic_is_listed_and_shown(home) -> None:
    listed = run_lash(["help", "-o", "json"], home=home).json
    assert [item["id"] for item in listed["items"]] == docs.names()
    assert set(docs.ORDER) == set(docs.names()) and set(docs.ALIASES.values()) <= set(docs.names())
    shown = run_lash(["help", "durability"], home=home)
    assert (shown.code, shown.out) == (0, docs.read("durability"))
    assert run_lash(["help", "python", "-o", "json"], home=home).json["id"] == "embedding"
    assert run_lash(["help", "queue", "add"], home=home).out == run_lash(["queue", "add", "--help"], home=home).out
    assert run_lash(["help", "show"], home=home).out == run_lash(["show", "--help"], home=home).out
    unknown = run_lash(["help", "durabilty", "-o", "json"], home=home)
    assert (unknown.code, unknown.out, unknown.error["code"]) == (3, "", "topic_not_found")
    assert unknown.error["details"]["nearest"][0] == "durability"
    assert not home.exists()


def test_a_topic_is_set_for_a_terminal_and_a_long_one_waits_for_its_reader(home) -> None:
    terminal = Terminal(home, "help", "durability", columns=90, rows=12)
    try:
        if shutil.which("less") is not None:
            terminal.wait_for(lambda text: "Everything that lash tells you" in text)
            assert "unfinished" not in terminal.text, "one screen at a time"
            # Ctrl-C does not end the pager, so it must not end who waits for it either.
            terminal.process.send_signal(signal.SIGINT)
            terminal.press("q")
        assert terminal.ended() == 0 and terminal.is_cooked
        assert "# Durability" not in terminal.everything, "it is set, not raw"
    finally:
        terminal.close()
    whole = Terminal(home, "help", "durability", "--no-pager", columns=90, rows=12)
    try:
        assert whole.ended() == 0
        assert "Durability" in whole.everything and "One at a time" in whole.everything
    finally:
        whole.close()


def test_every_topic_a_text_sends_its_reader_to_exists() -> None:
    texts = {topic: docs.read(topic) for topic in docs.names()} | {"README": README}
    known = {*docs.names(), *docs.ALIASES}
    for topic, text in texts.items():
        for named in re.findall(r"`lash help ([a-z]+)`", text):
            assert named in known, (topic, named)


def test_every_command_stands_in_some_topic() -> None:
    everything = "\n".join(docs.read(topic) for topic in docs.names())
    for entry in COMMANDS:
        if entry.name != "version":
            assert re.search(rf"\blash (?:-c \S+ )?{entry.name}\b", everything), entry.name


def test_the_guide_to_the_server_names_every_method_parameter_and_result() -> None:
    text = docs.read("serve")
    for name, method in Verbs(None, {}, lambda _: None).methods().items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        for field in method.parameters.__struct_encode_fields__:
            assert field == "session" or f"`{field}`" in row, (name, field)
        for kind in re.findall(r"`([A-Z]\w+)`", row):
            assert kind in KINDS, kind
