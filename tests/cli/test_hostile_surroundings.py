"""Places and locales a person may find themselves in: every command works there, or says by name why not."""

from __future__ import annotations

import json
import os
import subprocess

from support.cli import COMMAND, environment, run_lash

# What Python would make UTF-8 by itself is switched off: what is left is an ASCII locale.
ASCII = {"LC_ALL": "POSIX", "LANG": "", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LASH_TEST_COLD": "1"}
TEXT = "grüße 漢字 😀"


def test_text_is_utf8_in_a_locale_that_is_not(lash, tmp_path) -> None:
    named = tmp_path / "größe"
    named.mkdir()
    assert lash("turn", "s", "--or-open", f"!text {TEXT}", env=ASCII, cwd=named).out == TEXT + "\n"
    assert TEXT in lash("log", "s", env=ASCII).out
    document = lash("log", "s", "-o", "json", env=ASCII).json
    assert document["items"][-1]["text"] == TEXT
    assert lash("open", "t", "--name", "größe", "--label", "ort=köln", env=ASCII).code == 0
    shown = lash("show", "größe", "-o", "json").json
    assert (shown["name"], shown["labels"]) == ("größe", {"ort": "köln"})
    assert lash("ls", "--here", "-o", "name", cwd=named).out == "s\n"
    unknown = lash("show", "nöpe", "-o", "json", env=ASCII)
    assert (unknown.code, unknown.error["message"]) == (3, "no session 'nöpe'")


def test_json_is_json_in_an_encoding_that_lacks_some_of_its_letters(lash, home) -> None:
    text = TEXT + ' \\ "'
    lash("turn", "s", "--or-open", f"!text {text}")
    lash("rename", "s", "größe")

    def out(encoding: str, *arguments: str) -> str:
        env = environment(home, {"PYTHONIOENCODING": encoding})
        shown = subprocess.check_output([*COMMAND, *arguments], env=env, cwd=home.parent, timeout=60)
        return shown.decode(encoding.partition(":")[0])

    for encoding in ("ascii", "latin-1", "ascii:backslashreplace"):
        assert json.loads(out(encoding, "log", "s", "-o", "json"))["items"][-1]["text"] == text
        assert json.loads(out(encoding, "ls", "-o", "json"))["items"][0]["name"] == "größe"
        assert json.loads(out(encoding, "export", "s", "--as", "json"))["sessions"][0]["name"] == "größe"
        assert "\\u6f22\\u5b57 \\ud83d\\ude00" in out(encoding, "log", "s")


def test_a_directory_whose_name_is_not_utf8_has_sessions_like_any_other(lash, tmp_path) -> None:
    place = os.fsdecode(os.fsencode(tmp_path) + b"/d\xff")
    os.mkdir(place)
    assert lash("turn", "s", "--or-open", "!text hello", cwd=place).out == "hello\n"
    assert lash("show", "@last", "-o", "json", cwd=place).json["cwd"].endswith("/d\\xff")
    assert lash("ls", "--here", "-o", "name", cwd=place).out == "s\n"
    made = lash("turn", "@last", '!tool write {"path": "a", "content": "x"}', "--approve", "write=auto", cwd=place)
    assert made.code == 0, made.err
    assert os.path.exists(os.path.join(place, "a"))


def test_a_home_whose_name_is_not_utf8_is_looked_after(tmp_path) -> None:
    home = os.fsdecode(os.fsencode(tmp_path) + b"/h\xff")
    assert run_lash(("turn", "s", "--or-open", "!text hello"), home=home, cwd=tmp_path).out == "hello\n"
    for arguments in (("doctor",), ("config", "path"), ("db", "check")):
        done = run_lash(arguments, home=home, cwd=tmp_path)
        assert done.code == 0, done.err
    for arguments in (("doctor", "-o", "json"), ("config", "path", "-o", "json"), ("db", "path", "-o", "json")):
        done = run_lash(arguments, home=home, cwd=tmp_path)
        assert done.code == 0 and "\\udcff" in done.out, done.err
    for chosen in ({}, {"PYTHONIOENCODING": "utf-8:strict"}):
        env = environment(home, chosen)
        path = subprocess.check_output([*COMMAND, "db", "path"], env=env, cwd=tmp_path, timeout=60)
        assert path.removesuffix(b"\n") == os.fsencode(home) + b"/lash.db"


def test_a_session_of_the_environment_that_is_no_text_is_refused(lash) -> None:
    lash("open", "s")
    refused = lash("show", "-o", "json", env={"LASH_SESSION": os.fsdecode(b"\xff")})
    assert (refused.code, refused.out, refused.error["code"]) == (2, "", "usage")


def test_a_user_without_a_home_is_told_what_to_set(tmp_path, monkeypatch) -> None:
    # A user that no table knows, as a container may be run under; only the tables are looked at here.
    script = (
        "import os, pwd, sys\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "os.environ.pop('HOME', None)\n"
        "from lash_cli.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LASH", "XDG", "HOME"))}
    for arguments in (
        ("ls",), ("ls", "-o", "json"), ("turn", "s", "--or-open", "hi"), ("show", "s", "-o", "json"),
        ("completion", "bash", "--install"), ("completion", "fish", "--install", "--home", "somewhere"),
    ):  # fmt: skip
        done = subprocess.run(
            [COMMAND[0], "-c", script, *arguments],
            env={**environment, "PYTHONPATH": os.pathsep.join(__import__("sys").path)},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (5, b""), done.stderr
        assert b"no home directory is known" in done.stderr and b"Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_file_whose_name_is_no_text_can_be_given_wherever_a_file_can(lash, tmp_path):
    """File names are bytes: what was written under one is read under it again."""
    name = os.fsdecode(os.fsencode(tmp_path) + b"/n\xff")
    lash("turn", "s", "!text kept", "--or-open")
    assert lash("export", "s", "--as", "json", "--out", name, "-o", "json").code == 0
    assert lash("import", name, "--id", "again").code == 0
    assert lash("enqueue", "s", "see", "--attach", name, "-o", "json").code == 0
    assert lash("enqueue", "s", "see", f"-a{name}", "-o", "json").code == 0
    waiting = lash("show", "s", "-o", "json").json["queue"]
    assert "n\\xff" in json.dumps(waiting, ensure_ascii=False).replace("\\\\", "\\")
    assert lash("db", "backup", "--out", f"{name}.db", "-o", "json").code == 0
    assert lash("db", "restore", "--yes", f"{name}.db", "-o", "json").code == 0
    assert lash("log", "again", "-o", "json").json["items"][-1]["text"] == "kept"
    os.mkdir(f"{name}.d")
    assert "not valid UTF-8" not in lash("config", "trust", f"{name}.d", "-o", "json").err
    with open(name, "w") as file:
        file.write("in the file")
    for arguments in (
        ("open", "t", "--system", f"@{name}"),
        ("open", "u", f"--system=@{name}"),
        ("set", "s", f"system=@{name}"),
    ):
        assert lash(*arguments, "-o", "json").code == 0, arguments
    assert lash("set", "s", "max_steps=2", "-o", "json").json["system"] == "in the file"
    for text in (("enqueue", "s", name), ("open", "v", "--system", name), ("set", "s", f"variant=@{name}")):
        refused = lash(*text, "-o", "json")
        assert (refused.code, refused.error["code"]) == (2, "usage"), text
        assert "not valid UTF-8" in refused.error["message"]
    refused = lash("enqueue", "s", name, "-o", "json")
    assert (refused.code, refused.error["code"]) == (2, "usage") and "not valid UTF-8" in refused.error["message"]
