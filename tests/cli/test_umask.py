"""What is made in the user's project has the modes their umask gives, although what lash keeps is private (08 §6.8)."""

from __future__ import annotations

import json
import os
import stat

import pytest

COMMAND = "mkdir built && touch built/note && umask"
PROMPT = f"""!tool write {json.dumps({"path": "made/new.txt", "content": "new"})}
!tool exec_command {json.dumps({"cmd": COMMAND})}
!then
!text done"""


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077, 0o000])
def test_files_of_tools_and_of_their_commands_are_as_the_user_would_have_made_them(lash, home, tmp_path, mask):
    project = tmp_path / "project"
    project.mkdir()
    before = os.umask(mask)
    try:
        lash("open", "s", cwd=project)
        done = lash("turn", "s", PROMPT, "--approve", "write=auto", "--approve", "execute=auto", cwd=project)
    finally:
        os.umask(before)
    assert done.code == 0 and "done" in done.out
    modes = {str(path.relative_to(project)): stat.S_IMODE(path.stat().st_mode) for path in project.rglob("*")}
    directory, file = 0o777 & ~mask, 0o666 & ~mask
    assert modes == {"made": directory, "made/new.txt": file, "built": directory, "built/note": file}
    assert {stat.S_IMODE(path.stat().st_mode) for path in home.rglob("*") if path.is_file()} == {0o600}


def test_a_shell_line_of_a_chat_has_the_umask_of_its_user(chat):
    before = os.umask(0o027)
    try:
        one = chat(SHELL="/bin/sh")
    finally:
        os.umask(before)
    one.press("!umask\r")
    one.wait_for("0027\n")
