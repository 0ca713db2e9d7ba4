"""Globs and ignore rules (contract 05 §6)."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.processes import PATIENCE_S, start_process
from support.work import at_most

from lash_cli.tools.faults import ToolFault
from lash_cli.tools.patterns import compile_glob, is_ignored, parse_ignore_file


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.py", ["a.py"], ["d/a.py", "a.pyc"]),
        ("**/*.py", ["a.py", "d/a.py", "d/e/a.py"], ["a.txt"]),
        ("src/**", ["src/a", "src/d/a"], ["src", "other/a"]),
        ("src/**/test_*.py", ["src/test_a.py", "src/d/test_a.py"], ["src/a.py"]),
        ("a?c", ["abc"], ["ac", "a/c"]),
        ("[a-c]x", ["bx"], ["dx"]),
        ("[!a-c]x", ["dx"], ["ax", "/x"]),
        ("[]]x", ["]x"], ["ax"]),
        ("[^a]", ["b"], ["a"]),
        ("[^]a]x", ["bx"], ["]x", "ax"]),
        ("[[:alpha:]]*", ["a1", "Z"], ["1", "_", "é"]),
        ("[![:digit:][:space:]]x", ["ax", ":x"], ["1x", " x", "/x"]),
        ("[[:punct:]]", [*"!/:-@[]^_`{|}~\\&".replace("/", "")], ["a", " "]),
        ("[a[:upper:]-]", ["a", "B", "-"], ["b", "["]),
        ("*.{js,ts}", ["a.js", "a.ts"], ["a.css"]),
        ("{src,{lib,bin}}/*", ["src/a", "lib/a", "bin/a"], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("[unclosed", ["[unclosed"], ["u"]),
        (r"\*", ["*"], ["a"]),
        ("./a", ["a"], []),
    ],
)
def test_globs_match_whole_paths(pattern: str, yes: list[str], no: list[str]) -> None:
    compiled = compile_glob(pattern)
    assert [path for path in yes if not compiled.fullmatch(path)] == []
    assert [path for path in no if compiled.fullmatch(path)] == []


@pytest.mark.parametrize("pattern", ["[z-a]", "[[:letter:]]", "{a,b}" * 20, "{a,b}" * 9, "a" * 4097])
def test_a_glob_that_cannot_be_read_is_a_bad_request(pattern: str) -> None:
    with pytest.raises(ToolFault) as caught:
        compile_glob(pattern)
    assert caught.value.code == "bad_pattern"


@pytest.mark.parametrize(
    ("rules", "ignored", "kept"),
    [
        ("*.log", ["a.log", "d/a.log"], ["a.txt"]),
        ("/top", ["top"], ["d/top"]),
        ("d/inner", ["d/inner"], ["x/d/inner"]),
        ("build/", ["build/", "d/build/"], ["build"]),
        ("*.log\n!keep.log", ["a.log"], ["keep.log", "d/keep.log"]),
        ("!a\na", ["a"], []),
        ("# comment\n\n  \n\\#real", ["#real"], ["# comment"]),
        ("trailing   ", ["trailing"], []),
        (r"kept\ ", ["kept "], ["kept"]),
        ("**/deep/x", ["deep/x", "a/b/deep/x"], ["x"]),
        ("a/**/z", ["a/z", "a/b/c/z"], ["z"]),
        ("all/**", ["all/x", "all/y/z"], ["all/"]),
        ("[z-a]\nafter", ["after"], []),
        ("kept\\  \t", ["kept "], ["kept"]),
        ("*.[[:digit:]]\n[[:none:]]", ["a.1"], ["a.x", "n"]),
    ],
)
def test_ignore_rules_read_like_git_reads_them(rules: str, ignored: list[str], kept: list[str]) -> None:
    files = [parse_ignore_file(rules, "")]
    judged = {path: is_ignored(path.rstrip("/"), path.endswith("/"), files) for path in [*ignored, *kept]}
    assert [path for path in ignored if not judged[path]] == []
    assert [path for path in kept if judged[path]] == []


def test_a_deeper_file_overrules_and_matches_relative_to_itself() -> None:
    files = [parse_ignore_file("*.log", ""), parse_ignore_file("!important.log\n/local", "sub/")]
    assert is_ignored("a.log", False, files[:1])
    assert not is_ignored("sub/important.log", False, files)
    assert is_ignored("sub/local", False, files)
    assert not is_ignored("sub/x/local", False, files)


@pytest.mark.parametrize("tail", ["{" + "," * 3900, "*?" * 2000, "[a-z]" * 800, "[" * 4000, "{" * 4000])
def test_a_glob_that_takes_long_to_read_is_not_read(tail: str) -> None:
    with at_most(1_000), pytest.raises(ToolFault) as caught:
        compile_glob("{a,b}" * 8 + tail)
    assert caught.value.code == "bad_pattern"
    with at_most(1_000_000):
        compile_glob("{a,b}" + tail)


HANGING = """
import sys
from lash_cli.tools.patterns import compile_glob, is_ignored, parse_ignore_file
rules = ["*a" * 30 + "*b", "**/a/" * 30 + "b", "**/*a*/" * 30 + "b", " " * 1_000_000 + "x", "[" * 1_000_000]
files = [parse_ignore_file("\\n".join(rules), "")]
for path in ("a" * 250, "/".join(["a"] * 250), "/".join(["aaaaaa"] * 250)):
    assert not is_ignored(path, False, files)
    assert not any(compile_glob(rule).fullmatch(path) for rule in rules[:3])
print("done")
"""


def test_no_pattern_of_a_strange_repository_stops_the_process() -> None:
    # In a process of its own: a matcher without end holds the interpreter, and no time limit within would be kept.
    output, _ = start_process([sys.executable, "-c", HANGING], stdout=subprocess.PIPE).communicate(timeout=PATIENCE_S)
    assert output == b"done\n"


@given(
    st.lists(st.sampled_from(["a", "b", "*", "**", "/", "?", "[ab]", "[!a]", "**/", "/**"]), max_size=8).map("".join),
    st.lists(st.sampled_from(["a", "b", "ab", "/", "\n"]), max_size=9).map("".join),
)
def test_a_glob_matches_what_trying_every_way_would_find(pattern: str, path: str) -> None:
    assume(not pattern.startswith("/") and not pattern.endswith("/"))
    compiled = compile_glob(pattern)
    patient = re.compile(compiled.pattern.replace("(?>", "(?:"), re.DOTALL)
    assert bool(compiled.fullmatch(path)) == bool(patient.fullmatch(path))
