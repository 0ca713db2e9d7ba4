"""`lash turn --trace` and `lash trace html`: files, settings, errors and secrets (contract 04 §9, 08 §6)."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.cli import environment
from support.wire import ThreadedChatServer, text_reply

from lash_cli.errors import UsageError
from lash_cli.views.trace_page import SCRIPTS, trace_lines, trace_page

KEY = "abcdef-a-key-of-no-known-shape-123"


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def kinds(path: Path) -> list[str]:
    return [record["type"] for record in records(path)]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


PLAIN_TURN = [
    "session_started",
    "turn_started",
    "custom",
    "prompt_built",
    "llm_call_started",
    "llm_call_completed",
    "token_usage",
    "custom",
    "turn_completed",
]


def test_a_turn_is_traced_to_a_private_file_and_the_next_one_is_appended(lash, tmp_path: Path) -> None:
    for text in ("one", "two"):
        assert lash("turn", "s", "--or-open", text, "--trace", "new/dir/t.jsonl", cwd=tmp_path).code == 0
    path = tmp_path / "new" / "dir" / "t.jsonl"
    assert kinds(path) == PLAIN_TURN * 2
    assert (mode(path), mode(path.parent), mode(path.parent.parent)) == (0o600, 0o700, 0o700)


def test_nothing_is_traced_and_no_tracing_code_is_loaded_unless_asked_for(home, tmp_path: Path) -> None:
    report = (
        "import sys\nfrom lash_cli.__main__ import main\nsys.argv[0] = 'lash'\ncode = main(sys.argv[1:])\n"
        "print([name for name in sys.modules if 'trac' in name and name.startswith('lash_cli')], file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", report, "turn", "s", "--or-open", "hi", "-q"],
        env=environment(home), capture_output=True, timeout=60, check=True, cwd=tmp_path, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.stderr.decode().splitlines()[-1] == "[]"
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_the_settings_name_file_and_level_and_the_option_wins(lash, home, tmp_path: Path) -> None:
    settings = {"LASH_CFG__trace__file": str(tmp_path / "set.jsonl"), "LASH_CFG__trace__level": "extended"}
    assert lash("turn", "s", "--or-open", "hi there", env=settings).code == 0
    assert "runtime_stream_event" in kinds(tmp_path / "set.jsonl")
    before = (tmp_path / "set.jsonl").read_bytes()
    assert lash("turn", "s", "hi", "--trace", str(tmp_path / "option.jsonl"), env=settings).code == 0
    assert kinds(tmp_path / "option.jsonl")[-1] == "turn_completed"
    assert (tmp_path / "set.jsonl").read_bytes() == before
    home.joinpath("config.toml").write_text(f'[trace]\nfile = "{tmp_path}/file.jsonl"\n')
    assert lash("turn", "s", "hi").code == 0
    assert kinds(tmp_path / "file.jsonl") == PLAIN_TURN


def test_an_unknown_level_is_a_configuration_error_that_names_the_choices(lash) -> None:
    failed = lash("turn", "s", "--or-open", "hi", "-o", "json", "-c", "trace.level=loud")
    assert (failed.code, failed.error["code"]) == (5, "config_invalid")
    assert "standard, extended" in failed.error["message"]


def test_a_project_cannot_turn_tracing_on(lash, tmp_path: Path) -> None:
    project = tmp_path / "cloned"
    (project / ".lash").mkdir(parents=True)
    (project / ".lash" / "config.toml").write_text('[trace]\nfile = "stolen.jsonl"\n')
    done = lash("turn", "s", "--or-open", "hi", cwd=project)
    assert done.code == 0 and "trace.file" in done.err
    assert not (project / "stolen.jsonl").exists()


def test_a_trace_that_cannot_be_written_is_refused_before_anything_is_sent(lash) -> None:
    failed = lash("turn", "s", "--or-open", "hi", "--trace", "/dev/null/t.jsonl", "-o", "json")
    assert (failed.code, failed.error["code"], failed.out) == (2, "output_unwritable", "")
    assert lash("ls", "-o", "json").json["items"] == []


def test_a_full_disk_costs_the_trace_and_not_the_turn(lash) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    done = lash("turn", "s", "--or-open", "hi", "--trace", "/dev/full", "-q")
    assert done.code == 0 and done.out.startswith("You said: hi")
    assert done.err.count("the trace is incomplete") == 1
    assert lash("log", "s", "-o", "json").json["items"]


def test_the_model_cannot_read_the_trace_with_its_file_tools(lash, tmp_path: Path) -> None:
    script = '!tool read_file {"path":"t.jsonl"}\n!tool grep {"pattern":"session_started"}'
    done = lash("turn", "s", "--or-open", script, "--trace", "t.jsonl", cwd=tmp_path)
    assert done.code == 0
    completed = [record for record in records(tmp_path / "t.jsonl") if record["type"] == "tool_call_completed"]
    outcomes = {record["name"]: record["output"]["outcome"] for record in completed}
    assert outcomes["read_file"]["status"] == "failure"
    assert outcomes["grep"] == {"status": "success", "payload": "no matches"}


def test_no_key_reaches_the_trace_or_the_page_of_a_real_request(lash, tmp_path: Path) -> None:
    trace = tmp_path / "t.jsonl"
    with ThreadedChatServer([text_reply(f"your key is {KEY}")]) as server:
        variables = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.base_url, "OPENAI_MODEL": "m"}
        done = lash(
            "-c", "trace.level=extended", "turn", "s", "--or-open", f"is {KEY} right?", "--trace", str(trace),
            env=variables,
        )  # fmt: skip
        assert done.code == 0, done.err
        assert any(KEY in str(request.headers) for request in server.requests)
    assert lash("trace", "html", str(trace)).code == 0
    (sent,) = [record for record in records(trace) if record["type"] == "provider_request"]
    assert sent["event"]["provider"] == "openai" and sent["event"]["body_len"] > 0
    came = [record["event"] for record in records(trace) if record["type"] == "provider_stream_event"]
    assert {event["event_name"] for event in came} == {"chat.completion.chunk", "data"}
    for path in (trace, tmp_path / "t.html"):
        text = path.read_text(encoding="utf-8")
        assert KEY not in text and "[redacted]" in text


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A trace of two records, one of a kind nobody knows, with blank lines between."""
    path = tmp_path / "run.one.jsonl"
    path.write_text(
        '\ufeff{"type":"turn_started"}\n\n  \r\n{"type":"of_the_future","x":"<&>\u2028"}\n', encoding="utf-8"
    )
    return path


def test_the_page_stands_beside_its_trace_and_is_as_private(lash, trace: Path) -> None:
    done = lash("trace", "html", str(trace))
    page = trace.with_name("run.one.html")
    assert (done.code, done.out) == (0, f"{page}\n")
    assert mode(page) == 0o600
    assert "<title>run.one</title>" in page.read_text(encoding="utf-8")
    document = lash("trace", "html", str(trace), "-o", "json").json
    assert document == {"schema": "lash/1", "kind": "TracePage", "id": str(page), "file": str(page), "records": 2}


def test_out_stdout_and_title_say_where_and_under_which_name(lash, trace: Path, tmp_path: Path) -> None:
    assert lash("trace", "html", str(trace), "--out", "other.html", "--title", "<b>&", cwd=tmp_path).code == 0
    page = (tmp_path / "other.html").read_text(encoding="utf-8")
    assert "<title>&lt;b&gt;&amp;</title>" in page
    assert lash("trace", "html", str(trace), "--stdout", "--title", "<b>&").out == page
    assert not trace.with_name("run.one.html").exists()


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b'{"type":"a"}\n\n{"type":\n', "trace_invalid", 3),
        (b'{"type":"a"}\nplain words\n', "trace_invalid", 2),
        (b'{"a":NaN}\n', "trace_invalid", 1),
        (b'{"a":"\xff"}\n', "trace_invalid", 1),
        (b"[" * 100_000 + b"]" * 100_000 + b"\n", "trace_invalid", 1),
        (b'{"type":"a"} {"type":"b"}\n', "trace_invalid", 1),
        (b"", "trace_empty", None),
        (b"\n  \n\n", "trace_empty", None),
    ],
)
def test_what_is_no_trace_is_a_usage_error_that_names_the_line(lash, tmp_path: Path, content, code, line) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    failed = lash("trace", "html", str(path), "-o", "json")
    assert (failed.code, failed.error["code"], failed.out) == (2, code, "")
    assert failed.error["details"].get("line") == line
    assert not (tmp_path / "bad.html").exists()


def test_a_trace_that_does_not_exist_is_not_found(lash, tmp_path: Path) -> None:
    failed = lash("trace", "html", str(tmp_path / "none.jsonl"), "-o", "json")
    assert (failed.code, failed.error["code"]) == (3, "trace_not_found")
    failed = lash("trace", "html", str(tmp_path), "-o", "json")
    assert (failed.code, failed.error["code"]) == (2, "trace_unreadable")


def test_a_page_never_replaces_its_trace_and_a_failed_write_leaves_what_was_there(lash, trace: Path) -> None:
    before = trace.read_bytes()
    failed = lash("trace", "html", str(trace), "--out", str(trace), "-o", "json")
    assert (failed.code, failed.error["code"]) == (2, "usage")
    failed = lash("trace", "html", str(trace), "--out", "/dev/null/x.html", "-o", "json")
    assert (failed.code, failed.error["code"]) == (2, "output_unwritable")
    failed = lash("trace", "html", str(trace), "--out", "x.html", "--stdout", "-o", "json")
    assert (failed.code, failed.error["code"]) == (2, "usage")
    assert trace.read_bytes() == before
    assert sorted(path.name for path in trace.parent.iterdir()) == ["run.one.jsonl"]


def test_the_group_without_a_verb_and_an_unknown_verb_say_what_there_is(lash) -> None:
    assert "html" in lash("trace").out
    failed = lash("trace", "htm")
    assert failed.code == 2 and "lash trace html" in failed.err


def test_records_are_embedded_without_a_character_that_markup_is_made_of() -> None:
    hostile = '{"x":"</script><!--&\u2028\u2029","y":"{{script}} {{records}}"}'
    page = trace_page([hostile], title="t", source="s")
    start = page.index('id="records">') + len('id="records">')
    data = page[start : page.index("</script>", start)]
    assert not set(data) & set("<>&\u2028\u2029")
    assert json.loads(data) == [json.loads(hostile)]
    assert page.count("</script>") == 2


def test_the_policy_of_the_page_names_our_script_and_style_and_allows_nothing_else() -> None:
    page = trace_page(['{"type":"a"}'], title="t", source="s")
    policy = page.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    assert policy.count("sha256-") == 2


def test_the_page_names_no_address_and_no_file_outside_itself() -> None:
    page = trace_page(['{"type":"a"}'], title="t", source="s")
    for sign in (
        "http://",
        "https://",
        "//cdn",
        "@import",
        "url(",
        "fetch(",
        "XMLHttpRequest",
        "src=",
        "innerHTML",
        "eval(",
    ):
        assert sign not in page, sign


def test_every_part_of_the_page_is_short_enough_to_be_read() -> None:
    import lash_cli.views.trace_page as package

    directory = Path(package.__file__).parent
    parts = sorted(path.name for path in directory.iterdir() if path.suffix == ".js")
    assert parts == sorted(SCRIPTS)
    assert all(len((directory / name).read_bytes().splitlines()) < 400 for name in [*parts, "page.css", "page.html"])


def test_a_big_number_and_the_order_of_keys_reach_the_page_as_they_were_written() -> None:
    (line,) = trace_lines(b'{"z":1,"a":12345678901234567890,"type":"x"}')
    assert line in trace_page([line], title="t", source="s")


def test_lines_are_counted_from_one_and_blank_ones_count() -> None:
    with pytest.raises(UsageError) as caught:
        trace_lines(b'\n\n{"a":1}\n{')
    assert caught.value.details == {"line": 4}
