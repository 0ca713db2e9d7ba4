# ruff: noqa: ASYNC220, ASYNC240 - small files and programs in a test may block
"""glob and grep over real trees (contract 05 §6)."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.tools import Workbench, failure_of, value_of

from lash_cli.core.tools import FailureClass
from lash_cli.tools import grep_worker, policy, search
from lash_cli.tools.builtin import builtin_tools
from lash_cli.tools.policy import FilePolicy


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Workbench]:
    bench = Workbench(tmp_path, denied=(tmp_path / "project" / "lash-home",))
    yield bench
    await bench.provider.aclose()


async def found(bench: Workbench, pattern: str, **arguments: object) -> list[str]:
    return list(value_of(await bench.call("glob", pattern=pattern, **arguments))["paths"])


async def test_glob_is_sorted_and_skips_hidden_ignored_and_denied(bench: Workbench) -> None:
    for path in (
        "b.py",
        "a.py",
        "sub/c.py",
        ".hidden/x.py",
        ".y.py",
        "node_modules/z.py",
        "out/o.py",
        "lash-home/k.py",
    ):
        bench.write(path, "")
    bench.write(".gitignore", "out/\n")
    assert await found(bench, "**/*.py") == ["a.py", "b.py", "sub/c.py"]
    assert await found(bench, "*.py", path="sub") == ["c.py"]
    assert failure_of(await bench.call("glob", pattern="*", path="lash-home")).code == "path_outside_roots"


async def test_grep_reads_no_file_that_is_denied_by_name(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, denied=(tmp_path / "project" / "private.jsonl",))
    bench.write("private.jsonl", "needle")
    bench.write("sub/private.jsonl", "needle")
    assert value_of(await bench.call("grep", pattern="needle")) == "sub/private.jsonl:1: needle"
    assert failure_of(await bench.call("grep", pattern="needle", path="private.jsonl")).code == "path_outside_roots"
    await bench.provider.aclose()


async def test_another_name_of_a_denied_file_is_not_searched(tmp_path: Path) -> None:
    keys = tmp_path / "project" / "keys.toml"
    bench = Workbench(tmp_path, denied=(keys,))
    bench.write("keys.toml", "needle")
    (bench.root / "KEYS.toml").hardlink_to(keys)  # as where a name has several spellings
    bench.write("mine", "needle")
    assert value_of(await bench.call("grep", pattern="needle")) == "mine:1: needle"
    await bench.provider.aclose()


async def test_a_denied_file_that_is_written_anew_while_it_is_searched_for_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Workbench(tmp_path, denied=(tmp_path / "project" / "keys.toml",))
    bench.write("keys.toml", "needle")
    monkeypatch.setattr(FilePolicy, "denied_identities", frozenset())
    assert value_of(await bench.call("grep", pattern="needle")) == "no matches"
    await bench.provider.aclose()


def test_a_pipe_that_takes_the_place_of_a_file_loses_nothing(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    status = bench.write("file", "").stat()
    os.mkfifo(bench.root / "pipe")
    held = os.open(bench.root / "pipe", os.O_RDWR | os.O_NONBLOCK)
    os.write(held, b"needle\n")
    files = [("pipe", str(bench.root / "pipe"))]
    request = {"pattern": "x", "files": files, "denied": [], "limit": 9, "file_bytes": 99, "line_chars": 99}
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", lambda *_, **__: status)
        assert len(list(grep_worker.search(request))) == 1
    assert os.read(held, 100) == b"needle\n"
    os.close(held)


async def test_an_ignore_file_that_may_not_be_looked_for_ignores_nothing(nobodys_bench: Workbench) -> None:
    nobodys_bench.write(".git/config", "")
    nobodys_bench.write("locked/sub/a", "")
    (nobodys_bench.root / "locked").chmod(0o111)
    assert await found(nobodys_bench, "*", path="locked/sub") == ["a"]
    (nobodys_bench.root / "locked").chmod(0o700)


async def test_who_waits_to_write_into_a_pipe_still_waits_when_it_was_looked_at(bench: Workbench) -> None:
    os.mkfifo(bench.root / "pipe")
    bench.write("mine", "needle")
    writer = subprocess.Popen([sys.executable, "-c", "import sys; open(sys.argv[1], 'w')", bench.root / "pipe"])
    try:
        waits_in = Path(f"/proc/{writer.pid}/wchan")
        while waits_in.exists() and (place := waits_in.read_text()) != "wait_for_partner":
            if place == "0" and b") S " in Path(f"/proc/{writer.pid}/stat").read_bytes():
                pytest.skip("the kernel does not say here what a process waits for")
            await asyncio.sleep(0.005)
        assert value_of(await bench.call("grep", pattern="needle")) == "mine:1: needle"
        assert waits_in.read_text() == "wait_for_partner"
        assert failure_of(await bench.call("read_file", path="pipe")).code == "wrong_file_type"
        assert waits_in.read_text() == "wait_for_partner"
    finally:
        writer.kill()
        writer.wait()


async def test_another_spelling_of_a_denied_directory_is_not_searched(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one has on a file system without case, and where it is mounted once more."""
    identity = policy._identity

    def same_place(path: Path) -> tuple[int, int] | None:
        return identity(bench.root / "lash-home" if path == bench.root / "again" else path)

    monkeypatch.setattr(policy, "_identity", same_place)
    for path in ("lash-home/keys", "again/keys", "again/deeper/keys", "mine/keys"):
        bench.write(path, "needle")
    bench.provider = builtin_tools(
        FilePolicy((bench.root,), denied=(bench.root / "lash-home",)), bench.root, bench.spill, bench.clock
    )
    assert await found(bench, "**") == ["mine/keys"]
    assert value_of(await bench.call("grep", pattern="needle")) == "mine/keys:1: needle"
    assert not FilePolicy((bench.root,), denied=(bench.root / "lash-home",)).permits_read(bench.root / "again/deeper")
    for path in ("again", "again/keys", "again/deeper", "again/deeper/keys"):
        assert failure_of(await bench.call("read_file", path=path)).code == "path_outside_roots", path
        assert failure_of(await bench.call("glob", pattern="**", path=path)).code == "path_outside_roots", path


async def test_nested_and_outer_ignore_files_count_from_the_repository_root(bench: Workbench) -> None:
    (bench.root / ".git").mkdir()
    bench.write(".gitignore", "*.log\n/pkg/skip\n")
    bench.write("pkg/.gitignore", "!keep.log\n*.tmp\n")
    for path in ("a.log", "pkg/keep.log", "pkg/b.log", "pkg/c.tmp", "pkg/skip/d", "pkg/deep/e.tmp", "pkg/deep/f"):
        bench.write(path, "")
    assert await found(bench, "**") == ["pkg/deep/f", "pkg/keep.log"]
    assert await found(bench, "**", path="pkg") == ["deep/f", "keep.log"]
    assert await found(bench, "**", path="pkg/deep") == ["f"]


async def test_glob_lists_links_without_following_them(bench: Workbench) -> None:
    bench.write("real/a", "")
    (bench.root / "loop").symlink_to(bench.root)
    (bench.root / "etc").symlink_to("/etc")
    assert await found(bench, "**") == ["etc", "loop", "real/a"]


async def test_glob_says_what_it_left_out(bench: Workbench) -> None:
    for number in range(5):
        bench.write(f"f{number}", "")
    value = value_of(await bench.call("glob", pattern="*", limit=2))
    assert value == {"paths": ["f0", "f1"], "truncated": {"shown": 2, "total": 5, "omitted": 3}}
    for limit in (None, "none"):
        assert len(await found(bench, "*", limit=limit)) == 5


async def test_a_walk_is_bounded_and_admits_it(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        bench.write(f"f{number}", "")
    monkeypatch.setattr(search.Walk.__init__, "__defaults__", (3,))
    assert "incomplete" in value_of(await bench.call("glob", pattern="*"))


async def test_a_walk_takes_no_longer_than_it_may_and_admits_it(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        bench.write(f"f{number}", "x")
    looked = iter(range(1000))
    monkeypatch.setattr(bench.clock, "monotonic", lambda: float(next(looked)) * search.WALK_SECONDS / 3)
    value = value_of(await bench.call("glob", pattern="*"))
    assert len(value["paths"]) == 3
    assert value["incomplete"] == "stopped after 200000 entries or 30 s; search a smaller directory"


async def test_once_a_walk_is_over_no_further_ignore_file_is_read(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c", "d", "d/e/f"):
        bench.write(f"{name}/.gitignore", "ignored")
    bench.write(".git/HEAD", "")
    read: list[str] = []
    parsed = search.parse_ignore_file
    monkeypatch.setattr(search, "parse_ignore_file", lambda text, base: (read.append(base), parsed(text, base))[1])
    monkeypatch.setattr(search.Walk.__init__, "__defaults__", (5,))  # what is in the root, and one thing below
    assert "incomplete" in value_of(await bench.call("glob", pattern="**"))
    assert len(read) == 1
    read.clear()
    bench.cancel.set()
    assert (await bench.call("glob", pattern="**", path="d/e/f")).status == "cancelled"
    assert read == []


async def test_glob_of_a_file_or_nothing_is_a_bad_request(bench: Workbench) -> None:
    bench.write("file", "")
    assert failure_of(await bench.call("glob", pattern="*", path="file")).code == "wrong_file_type"
    assert failure_of(await bench.call("glob", pattern="*", path="absent")).code == "not_found"
    assert failure_of(await bench.call("glob", pattern="*", path="file/below")).code == "not_found"
    assert failure_of(await bench.call("glob", pattern="*", limit=0)).code == "invalid_limit"


async def test_a_directory_that_may_not_be_read_is_not_said_to_be_empty(nobodys_bench: Workbench) -> None:
    nobodys_bench.write("locked/a", "x").parent.chmod(0)
    nobodys_bench.write("b", "x")
    value = value_of(await nobodys_bench.call("glob", pattern="**"))
    assert value == {"paths": ["b"], "not_searched": "1 directory that cannot be read"}
    for name in ("glob", "grep"):
        refused = failure_of(await nobodys_bench.call(name, pattern="*", path="locked"))
        assert refused.code == "permission_denied"
    (nobodys_bench.root / "locked").chmod(0o700)


def test_a_file_that_may_not_be_read_is_counted_and_one_that_is_gone_is_not(nobodys_bench: Workbench) -> None:
    nobodys_bench.write("locked", "x").chmod(0)
    nobodys_bench.write("b", "x")
    files = [(name, str(nobodys_bench.root / name)) for name in ("b", "gone", "locked")]
    request = {"pattern": "x", "files": files, "denied": [], "limit": 9, "file_bytes": 99, "line_chars": 99}
    assert list(grep_worker.search(request)) == [
        ["b", 1, "x"],
        {"is_cut": False, "binary": 0, "large": 0, "unreadable": 1},
    ]


async def test_a_directory_swapped_for_a_link_while_it_is_walked_is_not_entered(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("a", "needle")
    bench.write("d/b", "needle")
    outside = bench.write("../outside/secret", "needle").parent
    permits = FilePolicy.permits_read

    def permits_then_swaps(policy: FilePolicy, real: Path, **known: bool) -> bool:
        if real == bench.root / "d" and not real.is_symlink():
            real.rename(bench.root / ".d")
            real.symlink_to(outside)
            return True
        return permits(policy, real, **known)

    monkeypatch.setattr(FilePolicy, "permits_read", permits_then_swaps)
    value = value_of(await bench.call("glob", pattern="**"))
    assert value == {"paths": ["a"], "not_searched": "1 directory that cannot be read"}


async def test_a_directory_that_vanishes_while_it_is_walked_leaves_nothing_out(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("a", "needle")
    (bench.root / "d").mkdir()
    permits = FilePolicy.permits_read

    def permits_then_goes(policy: FilePolicy, real: Path, **known: bool) -> bool:
        if real == bench.root / "d":
            real.rmdir()
        return permits(policy, real, **known)

    monkeypatch.setattr(FilePolicy, "permits_read", permits_then_goes)
    assert value_of(await bench.call("glob", pattern="**")) == {"paths": ["a"]}


def test_a_directory_swapped_for_a_link_before_its_files_are_read_is_not_entered(bench: Workbench) -> None:
    outside = bench.write("../outside/secret", "needle").parent
    (bench.root / "d").symlink_to(outside)
    bench.write("e", "needle")
    files = [(name, str(bench.root / name)) for name in ("d/secret", "e")]
    request = {"pattern": "needle", "files": files, "denied": [], "limit": 9, "file_bytes": 99, "line_chars": 99}
    assert [line[0] for line in grep_worker.search(request) if isinstance(line, list)] == ["e"]


async def test_a_search_takes_nothing_out_of_a_pipe(bench: Workbench) -> None:
    os.mkfifo(bench.root / "pipe")
    held = os.open(bench.root / "pipe", os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(held, b"needle\n")
        assert value_of(await bench.call("grep", pattern="needle")) == "no matches"
        assert os.read(held, 100) == b"needle\n"
    finally:
        os.close(held)


async def test_a_file_that_was_not_searched_is_not_said_to_have_no_matches(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "GREP_FILE_BYTES", 1024 * 1024)
    bench.write("large.log", "needle\n" * 200_000)
    bench.write("bin", "needle\0")
    bench.write("small", "needle")
    large = "(not searched: 1 file larger than 1 MiB)"
    assert value_of(await bench.call("grep", pattern="needle", path="large.log")) == f"no matches\n{large}"
    assert value_of(await bench.call("grep", pattern="needle")) == f"small:1: needle\n{large}"
    assert (
        value_of(await bench.call("grep", pattern="needle", path="bin")) == "no matches\n(not searched: 1 binary file)"
    )


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "a/../b", "d/", "{x,/y}", ".d/*", "**/.env", "a/./b"])
async def test_a_pattern_that_no_path_can_match_is_a_bad_request(bench: Workbench, pattern: str) -> None:
    bench.write("d/a", "")
    bench.write(".d/a", "")
    refused = failure_of(await bench.call("glob", pattern=pattern))
    assert (refused.failure_class, refused.code) == (FailureClass.INVALID_REQUEST, "bad_pattern")
    if "/" in pattern:
        assert failure_of(await bench.call("grep", pattern="x", glob=pattern)).code == "bad_pattern"
    assert await found(bench, "./*", path=".d") == ["a"]


async def test_a_name_of_several_lines_is_shown_on_one(bench: Workbench) -> None:
    bench.write("d/two\nlines", "needle")
    assert value_of(await bench.call("grep", pattern="needle")) == '"d/two\\nlines":1: needle'
    assert await found(bench, "**") == ["d/two\nlines"]


async def test_grep_numbers_lines_and_uses_the_same_rules(bench: Workbench) -> None:
    bench.write("b.txt", "no\nneedle é\r\n")
    bench.write("a/x.py", "a needle\nneedle again\n")
    for path in (".hidden", "node_modules/m", "lash-home/keys.toml", "bin", "skipped"):
        bench.write(path, "needle\0" if path == "bin" else "needle")
    bench.write(".gitignore", "skipped")
    (bench.root / "passwd").symlink_to(bench.write("../outside", "needle"))
    assert value_of(await bench.call("grep", pattern="needle")) == (
        "a/x.py:1: a needle\na/x.py:2: needle again\nb.txt:2: needle é"
    )


async def test_grep_selects_by_glob_path_and_limit(bench: Workbench) -> None:
    bench.write("a.py", "x\nx\nx\n")
    bench.write("sub/b.py", "x\n")
    bench.write("sub/c.txt", "x\n")
    assert value_of(await bench.call("grep", pattern="x", glob="*.py", path="sub")) == "b.py:1: x"
    assert value_of(await bench.call("grep", pattern="x", glob="sub/*")) == "sub/b.py:1: x\nsub/c.txt:1: x"
    assert value_of(await bench.call("grep", pattern="x", path="sub/c.txt")) == "sub/c.txt:1: x"
    cut = value_of(await bench.call("grep", pattern="x", path="a.py", limit=2))
    assert cut == "a.py:1: x\na.py:2: x\n(more matches follow; only the first 2 are shown)"
    assert value_of(await bench.call("grep", pattern="y")) == "no matches"


async def test_long_lines_are_cut_and_large_files_left_out(bench: Workbench) -> None:
    bench.write("long", "x" * 10_000)
    with (bench.root / "huge").open("wb") as file:
        file.write(b"x")
        file.truncate(search.GREP_FILE_BYTES + 1)
    long, rest = value_of(await bench.call("grep", pattern="x+")).splitlines()
    assert long == "long:1: " + "x" * search.GREP_LINE_CHARS + "..."
    assert rest == "(not searched: 1 file larger than 5 MiB)"


@pytest.mark.parametrize(
    ("before", "behind", "shown"),
    [
        (0, 300, "here{300}"),
        (100, 9000, "{100}here{396}..."),
        (496, 9000, "{496}here..."),
        (497, 9000, "...{125}here{371}..."),
        (9000, 9000, "...{125}here{371}..."),
        (9000, 371, "...{125}here{371}"),
        (9000, 1, "...{495}here{1}"),
    ],
)
async def test_of_a_long_line_the_match_is_shown(bench: Workbench, before: int, behind: int, shown: str) -> None:
    bench.write("min.js", f"{'x' * before}here{'x' * behind}\n")
    line = value_of(await bench.call("grep", pattern="here"))
    assert line == "min.js:1: " + re.sub(r"\{(\d+)\}", lambda count: "x" * int(count[1]), shown)


async def test_what_follows_the_last_line_feed_is_a_line_only_where_there_is_something(bench: Workbench) -> None:
    bench.write("ended", "a\n\nb\n")
    bench.write("open", "a\nb")
    bench.write("crlf", "a\r\n")
    bench.write("empty", "")
    assert value_of(await bench.call("grep", pattern="^$")) == "ended:2: "
    assert value_of(await bench.call("grep", pattern="^")) == (
        "crlf:1: a\nended:1: a\nended:2: \nended:3: b\nopen:1: a\nopen:2: b"
    )


def test_a_directory_that_is_gone_does_not_hide_the_rest_of_the_one_around_it(bench: Workbench) -> None:
    paths = [str(bench.write(path, "needle")) for path in ("d/a", "d/b/c", "d/d")]
    (bench.root / "d/b/c").unlink()
    (bench.root / "d/b").rmdir()
    files = [(path, path) for path in paths]
    request = {"pattern": "needle", "files": files, "denied": [], "limit": 9, "file_bytes": 99, "line_chars": 99}
    lines = list(grep_worker.search(request))
    assert [line[0] for line in lines[:-1]] == [paths[0], paths[2]]
    assert lines[-1]["unreadable"] == 0


async def test_a_byte_order_mark_is_no_character_of_the_first_line(bench: Workbench) -> None:
    bench.write("bom.txt", b"\xef\xbb\xbfneedle\n")
    assert value_of(await bench.call("grep", pattern="^needle")) == "bom.txt:1: needle"


@pytest.mark.parametrize("pattern", ["(open", "a{99999999999}", "(" * 5000 + ")" * 5000])
async def test_a_bad_expression_is_a_bad_request(bench: Workbench, pattern: str) -> None:
    fault = failure_of(await bench.call("grep", pattern=pattern))
    assert (fault.failure_class, fault.code) == (FailureClass.INVALID_REQUEST, "bad_pattern")


@pytest.mark.parametrize("pattern", ["[[]b", "a[[]", "[!--[]b"])
async def test_an_expression_that_python_warns_of_is_searched_for(bench: Workbench, pattern: str) -> None:
    bench.write("a.txt", "a[b\nab\n")
    assert value_of(await bench.call("grep", pattern=pattern)) == "a.txt:1: a[b"


@pytest.mark.parametrize("pattern", ["[[:alpha:]]+", "^[^[:space:]_]", "[[:^digit:]]"])
async def test_a_class_that_only_other_tools_know_is_not_searched_for(bench: Workbench, pattern: str) -> None:
    bench.write("a.txt", "abc [:alpha:]\n")
    assert value_of(await bench.call("grep", pattern=r"\[:alpha:]")) == "a.txt:1: abc [:alpha:]"
    failure = failure_of(await bench.call("grep", pattern=pattern))
    assert (failure.code, failure.failure_class) == ("bad_pattern", FailureClass.INVALID_REQUEST)
    assert "[:" in failure.message


async def test_a_search_that_died_half_way_is_a_failure(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("a", "needle")
    worker = tmp_path / "worker.py"
    worker.write_text("""print('["a", 1, "needle"]')""")
    monkeypatch.setattr(search, "_WORKER", worker)
    fault = failure_of(await bench.call("grep", pattern="needle"))
    assert (fault.failure_class, fault.code) == (FailureClass.INTERNAL, "grep_failed")


async def test_an_expression_that_takes_all_memory_gets_no_more_than_it_may(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "GREP_MEMORY_BYTES", 128 * 1024**2)
    bench.write("line", "a" * 4_000_000)
    refused = failure_of(await bench.call("grep", pattern="((((a|b)|c)|d)|e)*f"))
    assert refused.code == "bad_pattern" and "memory" in refused.message


async def test_an_endless_expression_neither_freezes_us_nor_survives(bench: Workbench) -> None:
    import asyncio

    bench.write("trap", "a" * 60 + "!")
    call = asyncio.ensure_future(bench.call("grep", pattern="(a+)+$"))
    await bench.clock.wait_for_sleepers()
    bench.clock.tick(search.GREP_SECONDS)
    assert failure_of(await call).code == "grep_timeout"
    again = asyncio.ensure_future(bench.call("grep", pattern="(a+)+$"))
    await bench.clock.wait_for_sleepers()
    bench.cancel.set()
    assert (await again).status == "cancelled"


async def test_a_python_that_needs_to_be_told_where_its_libraries_are_can_search(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where environment modules bring it."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$LD_LIBRARY_PATH" = /opt/lib ] || exit 127\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    bench.write("a.txt", "needle\n")
    assert value_of(await bench.call("grep", pattern="needle")) == "a.txt:1: needle"
    shown = value_of(await bench.call("exec_command", cmd="echo $LD_LIBRARY_PATH"))
    assert shown["output"] == "/opt/lib\n"


async def test_names_that_are_not_utf8_do_not_break_the_search(bench: Workbench) -> None:
    with open(os.fsencode(bench.root) + b"/\xff.txt", "wb") as file:  # noqa: ASYNC230
        file.write(b"x")
    bench.write("good", "x")
    assert value_of(await bench.call("grep", pattern="x")) == "good:1: x\n\ufffd.txt:1: x"
    assert await found(bench, "*") == ["good", "\ufffd.txt"]


async def test_every_file_tool_works_below_a_directory_whose_name_is_not_utf8(tmp_path: Path) -> None:
    base = tmp_path / os.fsdecode(b"w\xff")
    base.mkdir()
    bench = Workbench(base)
    made = value_of(await bench.call("write", path="a.txt", content="needle\n"))
    assert made["path"].endswith("/w\ufffd/project/a.txt")
    edit = {"oldText": "needle", "newText": "needles"}
    assert value_of(await bench.call("edit", path="a.txt", edits=[edit]))["path"] == made["path"]
    assert value_of(await bench.call("grep", pattern="needle")) == "a.txt:1: needles"
    assert await found(bench, "*") == ["a.txt"]
    assert value_of(await bench.call("read_file", path="a.txt")) == "1: needles"
    shown = value_of(await bench.call("exec_command", cmd="pwd"))
    assert shown["output"].endswith("/w\ufffd/project\n")
    await bench.provider.aclose()


async def test_a_tree_deeper_than_a_path_can_say_is_searched_as_far_as_it_can_be(bench: Workbench) -> None:
    bench.write("near", "needle")
    here = os.open(bench.root, os.O_RDONLY)
    try:
        for _ in range(60):  # each level by its own name: together they are longer than any path
            os.mkdir("d" * 100, dir_fd=here)
            below = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
    finally:
        os.close(here)
    assert await found(bench, "**") == ["near"]
    left_out = "(not searched: 1 directory that cannot be read)"
    assert value_of(await bench.call("grep", pattern="needle")) == f"near:1: needle\n{left_out}"


async def test_an_ignore_file_that_is_a_pipe_is_not_waited_for(bench: Workbench) -> None:
    os.mkfifo(bench.root / ".gitignore")
    bench.write("near", "needle")
    assert await asyncio.wait_for(found(bench, "**"), 30) == ["near"]


async def test_what_is_no_ignore_file_or_lies_outside_or_is_endless_ignores_nothing(bench: Workbench) -> None:
    bench.write("../.git/HEAD", "")
    bench.write("../.gitignore", "near")
    bench.write("a/near", "")
    bench.write("a/.gitignore/near", "")
    bench.write("b/near", "")
    bench.write("b/.gitignore", "#" * search.IGNORE_FILE_BYTES + "\nnear\n")
    assert await found(bench, "**") == ["a/near", "b/near"]
