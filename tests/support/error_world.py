"""A home in which everything can go wrong, and the checks every failure must pass (contract 08 §6.2, §6.4).

`ErrorWorld` runs the real command. `refused` proves that a failure is told in
the contract's form and that the store holds the same rows as before; `stopped`
proves that a failed turn was committed whole. Every key in this home is a
canary, and everything printed or written is searched for it at the end.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from support.cli import Result, run_lash, spawn_lash
from support.watching import StreamingCaller

from lash_cli.api import LashCore, ModelSpec, SqliteStore
from lash_cli.system import SystemClock, SystemIds

CANARY = "canary7f3a9c2e51d84b06"
FIELDS = {
    "schema", "kind", "code", "message", "exit", "retryable", "ambiguous", "hint", "details", "request_id",
}  # fmt: skip
RETRYABLE_EXIT = 75
QUICK = "{max_attempts = 2, base_delay_ms = 1, max_delay_ms = 2, retry_after_cap_ms = 5, throttle_wait_budget_ms = 5}"
_KEYS = f'[keys]\nmine = "{CANARY}"\n'
_CONFIG = """
[providers.mine]
kind = "openai_chat"
base_url = "http://127.0.0.1:9/v1"
key = "keys:mine"
options = {options}

[models.m]
id = "model-1"
"""

_PROVIDER_BY_ENVIRONMENT = {"LASH_CFG__providers__mine__kind": "openai_chat"}

Dump = dict[str, list[tuple[Any, ...]]]


def dump(database: Path) -> Dump | None:
    """Every row of every table, None when there is no database."""
    if not database.exists():
        return None
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(connection.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr) for name in names}


def _dump_of(content: bytes) -> Dump | None:
    """Every row of a database that is all in one file."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "lash.db"
        path.write_bytes(content)
        return dump(path)


@functools.cache
def _seed() -> Path:
    """A home with sessions in every resting state, and one of the provider `mine`; made once by the command itself."""
    directory = Path(tempfile.mkdtemp(prefix="lash-error-seed-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    home = directory / "home"

    def lash(*arguments: str) -> None:
        done = run_lash(arguments, home=home, env=_PROVIDER_BY_ENVIRONMENT)
        assert done.code == 0, done.err

    lash("open", "s", "--provider", "mine", "--model", "m")
    lash("open", "demo", "--name", "demo-name")
    lash("turn", "demo", "!text first answer", "--turn-id", "t_1", "--key", "k1", "-q")
    for session in ("abcd-1", "abcd-2", "gone", "shut"):
        lash("open", session)
    lash("rm", "gone", "--yes")
    lash("close", "shut")
    return home


class ErrorWorld:
    """One home of one test. Use as a context manager: leaving it looks for the canary."""

    def __init__(self, directory: Path, *, base_url: str | None = None, options: str = QUICK) -> None:
        self.directory = directory
        self.home = directory / "lash-home"
        self.outputs: list[Result] = []
        shutil.copytree(_seed(), self.home, copy_function=shutil.copy2)
        self.configure(base_url, options)
        keys = self.home / "keys.toml"
        keys.write_text(_KEYS)
        keys.chmod(0o600)

    def configure(self, base_url: str | None = None, options: str = QUICK, more: str = "") -> None:
        """Write the configuration: one provider `mine` with a key."""
        text = _CONFIG.replace("{options}", options)
        text = text if base_url is None else text.replace("http://127.0.0.1:9/v1", base_url)
        (self.home / "config.toml").write_text(text + more)
        (self.home / "config.toml").chmod(0o600)

    @property
    def database(self) -> Path:
        """The store of this home."""
        return self.home / "lash.db"

    def dump(self) -> Dump | None:
        """Every row of the store."""
        return dump(self.database)

    def lash(self, *arguments: str, **options: Any) -> Result:
        """Run one command and keep what it printed for the search at the end."""
        done = run_lash(arguments, home=self.home, cwd=options.pop("cwd", self.directory), **options)
        self.outputs.append(done)
        return done

    def spawn(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start one command."""
        return spawn_lash(arguments, home=self.home, cwd=self.directory, **options)

    def ended(self, process: subprocess.Popen[bytes]) -> Result:
        """How a started command ended."""
        out, err = process.communicate(timeout=60)
        done = Result(process.returncode, out.decode(), err.decode())
        self.outputs.append(done)
        return done

    def refused(self, arguments: tuple[str, ...], status: int, code: str, **options: Any) -> Any:
        """Run a command that must fail with nothing done; returns the error object."""
        at_rest = self._bytes_at_rest()
        before = self.dump() if at_rest is None else None
        done = self.lash("-o", "json", *arguments, **options)
        error = told(done, status, code)
        # The same bytes are the same rows, and are compared in no time.
        if at_rest is None or self._bytes_at_rest() != at_rest:
            assert self.dump() == (before if at_rest is None else _dump_of(at_rest)), "a refused command changed it"
        return error

    def _bytes_at_rest(self) -> bytes | None:
        """The whole store; None when there is none, or it is not all in one file."""
        if not self.database.exists() or Path(f"{self.database}-wal").exists():
            return None
        return self.database.read_bytes()

    def stopped(self, arguments: tuple[str, ...], status: int, code: str, **options: Any) -> Any:
        """Run the first turn of session `s`, which must end without an answer but whole."""
        done = self.lash("-o", "json", *arguments, **options)
        error = told(done, status, code)
        self.is_whole("s", error["details"]["turn"]["turn_id"])
        return error

    def is_whole(self, session: str, turn_id: str) -> None:
        """The transcript is all of `turn_id` and begins with the user's one text; nothing runs; a next turn works."""
        items = self.transcript(session)
        texts = [item for item in items if item["role"] == "user" and item["parts"][0]["kind"] == "text"]
        assert texts == items[:1], items
        assert {item["turn_id"] for item in items} == {turn_id}
        shown = self.lash("show", session, "-o", "json").json
        assert (shown["unfinished_turn"], shown["lease"], shown["status"]) == (None, None, "idle")
        assert asyncio.run(_following_turn(self.database, session, shown["provider"])) == "still here"

    def transcript(self, session: str) -> list[Any]:
        """The committed transcript."""
        items: list[Any] = self.lash("log", session, "-o", "json").json["items"]
        return items

    def __enter__(self) -> ErrorWorld:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.check_canary()

    def check_canary(self) -> None:
        """The key is in the key file and nowhere else: no output, no database, no log."""
        for done in self.outputs:
            assert CANARY not in done.out + done.err, "a key was printed"
        for path in self.directory.rglob("*"):
            if path.is_file() and path.name != "keys.toml":
                assert CANARY.encode() not in path.read_bytes(), f"a key was written to {path}"


async def _following_turn(database: Path, session_id: str, provider_id: str) -> str | None:
    """What its provider answers in the next turn of a session, now that it can; taken here and not by a command."""
    store = SqliteStore.open(database, SystemClock(), SystemIds())
    caller = StreamingCaller(("still here",), pause_s=0)
    caller.provider_id = provider_id
    async with (
        LashCore(provider=caller, model=ModelSpec("m"), store=store, queue_driver="none") as core,
        await core.open_session(session_id) as session,
    ):
        return (await session.turn("and then").run()).result.assistant_message()


@contextmanager
def error_world(directory: Path, **options: Any) -> Iterator[ErrorWorld]:
    """An `ErrorWorld` for a fixture."""
    with ErrorWorld(directory, **options) as world:
        yield world


def told(done: Result, status: int, code: str) -> Any:
    """The error object of a failed command: empty stdout, one line on stderr, every field, the right status."""
    assert done.out == "", done.out
    assert len(done.err.splitlines()) == 1, done.err
    error = done.error
    assert (done.code, error["code"]) == (status, code), error
    assert set(error) == FIELDS
    assert (error["schema"], error["kind"], error["exit"]) == ("lash/1", "Error", status)
    assert error["message"] and error["request_id"].startswith("r_")
    assert isinstance(error["details"], dict) and (error["hint"] is None or error["hint"])
    assert error["retryable"] is (status == RETRYABLE_EXIT), "75 and `retryable` mean the same"
    assert error["ambiguous"] is False, "every failure of this table is certain"
    return error
