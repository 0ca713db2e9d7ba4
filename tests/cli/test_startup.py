"""What a start may import, and that the short cut says what the long way says (contract 08 §9, design D16)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.cli import environment, run_lash

from lash_cli.cli import fast
from lash_cli.core.content import TurnInput
from lash_cli.core.ingress import InputDraft
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.core.policy import ModelSpec, PersistedSessionConfig
from lash_cli.paths import resolve_paths
from lash_cli.store.base import LaneRequest, SessionCreate
from lash_cli.store.sqlite import schema
from lash_cli.system import SystemClock, this_process
from lash_cli.wiring import open_store

HEAVY = {"rich", "prompt_toolkit", "pydantic", "httpx2", "httpx", "sqlite_utils", "jsonschema_rs", "lupa", "pluggy"}
REPORT = """
import sys
from lash_cli.__main__ import main
sys.argv[0] = "lash"
code = main(sys.argv[1:])
sys.stdout.flush()
print("\\n" + " ".join(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
sys.exit(code)
"""


def imported(home, *args):
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *args], env=environment(home), capture_output=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stderr.decode().splitlines()[-1].split())


async def fill(home):
    """Sessions in every state a listing can show."""
    store = open_store(resolve_paths({"LASH_HOME": str(home)}))
    config = PersistedSessionConfig("loopback", ModelSpec("loopback"))
    now_ms = SystemClock().now_ms()
    for number in range(5):
        await store.create_session(
            SessionCreate(f"s_{number}", config, now_ms - number, name=f"n{number}", cwd="/x", labels={"k": "v"})
        )
    await store.set_session_flags("s_1", closed_at_ms=now_ms, parked_at_ms=None)
    await store.set_session_flags("s_2", closed_at_ms=None, parked_at_ms=now_ms)
    for session_id in ("s_3", "s_4"):
        owner = LeaseOwnerIdentity(f"owner-{session_id}", "one", this_process(), "turn")
        draft = InputDraft(session_id=session_id, input_id=f"in_{session_id}", input=TurnInput.text("hello"))
        ttl_ms = 60_000 if session_id == "s_3" else 1
        await store.open_lane(
            LaneRequest(
                session_id=session_id, owner=owner, ttl_ms=ttl_ms, now_ms=now_ms - 10, lease_token="lt",
                claim_token="ct", turn_id=f"t_{session_id}", draft=draft,
            )
        )  # fmt: skip
    return store


@pytest.mark.parametrize("args", [["--version"], ["__complete", "--", "show", ""]])
def test_what_answers_at_once_imports_nothing(home, args):
    modules = imported(home, *args)
    assert not modules & (HEAVY | {"typer", "msgspec", "asyncio", "sqlite3", "json", "platformdirs", "typing"})


def test_a_listing_for_a_program_imports_no_parser_and_no_event_loop(home):
    modules = imported(home, "ls", "-o", "json")
    assert not modules & (HEAVY | {"typer", "msgspec", "asyncio", "platformdirs"})


@pytest.mark.parametrize(
    "args", [["ls"], ["ls", "--here"], ["--help"], ["turn", "--help"], ["config", "path"], ["version"]]
)
def test_no_light_command_imports_a_heavy_library(home, args):
    assert not imported(home, *args) & HEAVY


def without_moments(document):
    """A listing without what changes between two looks at it."""
    for item in document["items"]:
        if item["lease"] is not None:
            item["lease"].pop("expires_in_ms")
    return document


async def test_the_short_cut_and_the_real_command_say_the_same(lash, home):
    assert lash("ls", "-o", "json").out == lash("ls", "-o", "json", "--debug").out
    assert lash("turn", "--or-open", "s_0", "hello").code == 0
    store = await fill(home)
    try:
        for extra in ([], ["-n", "2"], ["--limit", "5"]):
            short = lash("ls", "-o", "json", *extra)
            real = lash("ls", "-o", "json", "--debug", *extra)
            assert short.code == real.code == 0, real.err
            assert without_moments(json.loads(short.out)) == without_moments(json.loads(real.out))
            assert list(short.json["items"][0]) == list(real.json["items"][0])
        statuses = {item["id"]: item["status"] for item in lash("ls", "-o", "json").json["items"]}
        assert statuses == {"s_0": "idle", "s_1": "closed", "s_2": "parked", "s_3": "running", "s_4": "stuck"}
        assert lash("ls", "-o", "name").out == lash("ls", "-o", "name", "--debug").out
        first = lash("ls", "-o", "json", "-n", "2").json
        second = lash("ls", "-o", "json", "--cursor", first["next"]).json
        both = [item["id"] for item in (*first["items"], *second["items"])]
        assert both == [item["id"] for item in lash("ls", "-o", "json").json["items"]]
    finally:
        await store.aclose()


def test_the_short_cut_knows_the_schema_of_today():
    assert (fast.SCHEMA_VERSION, fast.APPLICATION_ID) == (schema.SCHEMA_VERSION, schema.APPLICATION_ID)


def test_looking_creates_nothing(home):
    for arguments in (["ls"], ["ls", "-o", "json"], ["doctor"], ["config", "show"], ["key", "ls"]):
        assert run_lash(arguments, home=home).code == 0
    assert not home.exists()
