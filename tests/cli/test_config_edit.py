"""`lash config edit`: the file is replaced by a valid one or not at all, and no text is lost (contract 08 §6.7)."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pexpect
import pytest
from support.cli import COMMAND, environment

BEFORE = '# mine\n[defaults]\nmodel = "old"\n'


@pytest.fixture
def config(home: Path) -> Path:
    home.mkdir(mode=0o700)
    path = home / "config.toml"
    path.write_text(BEFORE)
    path.chmod(0o600)
    return path


def edit(home: Path, code: str, *, answers: tuple[str, ...] = ()) -> tuple[int | None, str]:
    """Run it with an editor that is this Python code, `path` being its file; the status and what was shown."""
    editor = home.parent / "editor.py"
    editor.write_text(f"import sys\npath = sys.argv[1]\ntext = open(path).read()\n{code}\n")
    env = environment(home, {"VISUAL": f"{sys.executable} {editor}", "TERM": "dumb"})
    child = pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], "config", "edit"], env=env, cwd=str(home.parent), timeout=60, encoding="utf-8"
    )
    seen = ""
    for answer in answers:
        child.expect("again")
        seen += child.before
        child.sendline(answer)
    child.expect(pexpect.EOF)
    seen += child.before
    child.close()
    return child.exitstatus, seen


def drafts(home: Path) -> list[Path]:
    return sorted(home.glob("config-*.toml"))


def test_a_valid_text_replaces_the_file(home, config):
    status, seen = edit(home, "open(path, 'w').write(text.replace('old', 'new'))")
    assert status == 0 and "wrote" in seen
    assert config.read_text() == BEFORE.replace("old", "new")
    assert stat.S_IMODE(config.stat().st_mode) == 0o600 and not drafts(home)


def test_a_first_file_is_begun_with_a_hint_and_is_private(home):
    status, _ = edit(home, "assert 'lash config schema' in text; open(path, 'w').write('[lease]\\nttl_ms = 9000\\n')")
    assert status == 0
    assert (home / "config.toml").read_text() == "[lease]\nttl_ms = 9000\n"
    assert stat.S_IMODE((home / "config.toml").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_an_unchanged_text_writes_nothing(home, config):
    before = config.stat().st_mtime_ns
    status, seen = edit(home, "")
    assert status == 0 and "nothing was changed" in seen
    assert config.stat().st_mtime_ns == before and not drafts(home)


def test_a_mistake_is_named_and_may_be_edited_again(home, config):
    code = (
        "after = text.replace('modle', 'model').replace('old', 'new')"
        " if 'modle' in text else text.replace('model', 'modle')\nopen(path, 'w').write(after)"
    )
    status, seen = edit(home, code, answers=("y",))
    assert status == 0 and "line 3: unknown key defaults.modle; did you mean defaults.model?" in seen
    assert config.read_text() == BEFORE.replace("old", "new") and not drafts(home)


def test_a_mistake_that_is_left_is_kept_and_changes_nothing(lash, home, config):
    status, seen = edit(home, "open(path, 'w').write(text.replace('model', 'modle'))", answers=("n",))
    assert status == 5 and config.read_text() == BEFORE
    (draft,) = drafts(home)
    assert draft.read_text() == BEFORE.replace("model", "modle") and draft.name in seen.replace("\r\n", "")
    assert stat.S_IMODE(draft.stat().st_mode) == 0o600
    (finding,) = lash("doctor", "-o", "json").json["findings"]
    assert finding["code"] == "config_edit_kept" and str(draft) in finding["message"]


@pytest.mark.parametrize("saves", [True, False])
def test_an_editor_that_fails_changes_nothing_and_keeps_what_it_saved(home, config, saves):
    save = "open(path, 'w').write(text.replace('old', 'new'));" if saves else ""
    status, _ = edit(home, f"{save} sys.exit(3)")
    assert status == 1 and config.read_text() == BEFORE
    assert [draft.read_text() for draft in drafts(home)] == ([BEFORE.replace("old", "new")] if saves else [])


def test_a_file_that_somebody_else_changed_meanwhile_is_not_overwritten(home, config):
    theirs = BEFORE.replace("old", "theirs")
    status, seen = edit(
        home, f"open(path, 'w').write(text.replace('old', 'mine')); open({str(config)!r}, 'w').write({theirs!r})"
    )
    assert status == 4 and config.read_text() == theirs
    assert "changed by somebody else" in seen and "as it was" not in seen
    assert [draft.read_text() for draft in drafts(home)] == [BEFORE.replace("old", "mine")]


@pytest.mark.parametrize("then", ["", "; sys.exit(3)"])
def test_a_text_that_the_editor_took_away_empties_no_configuration(home, config, then):
    status, seen = edit(home, f"import os; os.rename(path, {str(home.parent / 'elsewhere.toml')!r}){then}")
    assert status == (1 if then else 2) and config.read_text() == BEFORE
    assert "Traceback" not in seen and "unexpected" not in seen, seen
    assert "as it was" not in seen, "somebody else may have changed it meanwhile"
    assert not drafts(home)


def test_without_a_terminal_nothing_is_started(lash, home):
    done = lash("config", "edit", "-o", "json", env={"VISUAL": "false"})
    assert (done.code, done.out, done.error["code"]) == (2, "", "not_a_tty")
    assert not os.path.exists(home)


def test_a_key_of_the_chat_that_does_nothing_is_refused_before_it_is_written(lash, home):
    for name, keys, told in (
        ("repl.keys.nothing", '["c-x"]', "no action 'nothing'"),
        ("repl.keys.newline", '["zzz"]', "there is no key 'zzz'"),
        ("profiles.p.repl.keys.newline", '["zzz"]', "there is no key 'zzz'"),
    ):
        refused = lash("config", "set", name, keys, "-o", "json")
        assert (refused.code, refused.out, refused.error["code"]) == (5, "", "config_invalid"), refused.err
        assert told in refused.error["message"]
    assert not (home / "config.toml").exists()
    assert lash("config", "set", "repl.keys.newline", '["c-j"]').code == 0
    (home / "config.toml").write_text('[repl.keys]\nnewline = ["zzz"]\n')
    assert "there is no key 'zzz'" in lash("config", "validate", "-o", "json").err
