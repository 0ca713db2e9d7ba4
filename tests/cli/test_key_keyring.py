"""Keys in the system's keyring (extra `[keyring]`): a stand-in backend on the path, never the real one."""

from __future__ import annotations

import json

import pytest

SECRET = "sk-canary-0123456789abcdef"
# The part of the library that is used; its keyring is a file, and BROKEN makes it fail as a locked one does.
LIBRARY = """
import json, os, pathlib
_FILE = pathlib.Path(os.environ["FAKE_KEYRING"])
class _Backend:
    priority = float(os.environ.get("FAKE_PRIORITY", "5"))
def get_keyring():
    return _Backend()
def _all():
    if os.environ.get("BROKEN"):
        raise RuntimeError("locked: sk-canary-0123456789abcdef")
    return json.loads(_FILE.read_text()) if _FILE.exists() else {}
def get_password(service, name):
    return _all().get(service + "/" + name)
def set_password(service, name, value):
    _FILE.write_text(json.dumps({**_all(), service + "/" + name: value}))
def delete_password(service, name):
    held = _all()
    del held[service + "/" + name]
    _FILE.write_text(json.dumps(held))
"""


@pytest.fixture
def keyring(lash, tmp_path, home):
    """Runs `lash` with the extra installed; `keyring.held()` is what the keyring holds."""
    package = tmp_path / "extra" / "keyring"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(LIBRARY)
    (package / "errors.py").write_text("class KeyringError(Exception): ...\n")
    place = tmp_path / "held.json"
    from support.cli import environment

    path = environment(home)["PYTHONPATH"]

    def run(*arguments, env=None, **options):
        extra = {"PYTHONPATH": f"{package.parent}:{path}", "FAKE_KEYRING": str(place), **(env or {})}
        return lash(*arguments, env=extra, **options)

    run.held = lambda: json.loads(place.read_text()) if place.exists() else {}
    return run


def test_a_new_key_goes_into_the_keyring_and_is_found_there(keyring, home):
    done = keyring("key", "set", "mine", "--stdin", "-o", "json", input=SECRET)
    assert (done.code, done.json["source"], done.json["replaced"]) == (0, "keyring:mine", False)
    assert keyring.held() == {"lash/mine": SECRET}
    assert "canary" not in (home / "keys.toml").read_text() + done.out + done.err
    assert keyring("key", "ls", "-o", "json").json["items"] == [
        {"name": "mine", "source": "keyring:mine", "last_four": None}
    ]
    removed = keyring("key", "rm", "mine", "-o", "json")
    assert (removed.code, removed.json["source"]) == (0, "keyring:mine")
    assert keyring.held() == {} and keyring("key", "ls", "-o", "name").out == ""


def test_a_key_stays_where_one_of_its_name_is(keyring, lash, home):
    lash("key", "set", "mine", "--stdin", input="the-first-key-value")
    done = keyring("key", "set", "mine", "--stdin", "-o", "json", input=SECRET)
    assert (done.json["source"], done.json["replaced"]) == ("keys:mine", True)
    assert keyring.held() == {} and SECRET in (home / "keys.toml").read_text()


def test_the_place_can_be_chosen_and_a_key_is_never_in_both(keyring, home):
    keyring("key", "set", "mine", "--in", "file", "--stdin", input=SECRET)
    assert keyring.held() == {}
    keyring("key", "set", "mine", "--in", "keyring", "--stdin", input=SECRET)
    assert keyring.held() == {"lash/mine": SECRET} and "canary" not in (home / "keys.toml").read_text()
    keyring("key", "set", "mine", "--in", "file", "--stdin", input=SECRET)
    assert keyring.held() == {} and SECRET in (home / "keys.toml").read_text()
    assert keyring("key", "set", "mine", "--in", "drawer", "--stdin", input=SECRET).code == 2


def test_a_keyring_that_does_not_work_is_not_chosen_and_says_so_when_it_is(keyring, home):
    done = keyring("key", "set", "mine", "--stdin", "-o", "json", input=SECRET, env={"FAKE_PRIORITY": "0"})
    assert done.json["source"] == "keys:mine"
    broken = keyring(
        "key", "set", "other", "--in", "keyring", "--stdin", "-o", "json", input=SECRET, env={"BROKEN": "1"}
    )
    assert (broken.code, broken.out, broken.error["code"]) == (5, "", "keyring_unavailable")
    assert "--in file" in broken.error["hint"]
    assert "canary" not in broken.err, "what the keyring says is not repeated"
    assert keyring("key", "ls", "-o", "name").out.split() == ["mine"]


def test_without_the_extra_the_way_to_it_is_named(lash):
    done = lash("key", "set", "mine", "--in", "keyring", "--stdin", "-o", "json", input=SECRET)
    assert (done.code, done.error["code"]) == (5, "keyring_unavailable")
    assert "lash-cli[keyring]" in done.error["hint"]


def test_a_provider_added_with_a_key_uses_the_keyring_and_is_called_with_it(keyring):
    from support.wire import ThreadedChatServer, text_reply

    with ThreadedChatServer([text_reply("ready")]) as server:
        added = keyring("provider", "add", "mine", "--base-url", server.base_url, "--stdin", "-o", "json", input=SECRET)
        assert added.json["key"] == "keyring:mine"
        done = keyring("provider", "test", "mine", "--model", "m", env={"NO_PROXY": "127.0.0.1"})
        assert done.code == 0, done.err
    assert server.requests[0].headers["authorization"] == f"Bearer {SECRET}"
