"""What a program needs to embed lash comes from `lash_cli`, and from nowhere deeper."""

from __future__ import annotations

import ast
import importlib
import inspect
import pydoc
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

import lash_cli
from lash_cli import api

# What a host builds itself; the rest is handed out, and its construction is nobody's business.
BUILT = ("FunctionToolProvider", "LashCore", "QueueWorker", "RetryPolicy", "WorkOptions")
HANDED_OUT = (
    "AdvancedToolAdmin",
    "LashSession",
    "ObservableSession",
    "QueuedTurnBuilder",
    "RecoveringStream",
    "RemoteSessionObservationEventStream",
    "RemoteSessionObservationStream",
    "SessionAdmin",
    "SessionCommands",
    "SessionQueue",
    "ToolAdmin",
    "ToolSourceHandle",
    "TurnBuilder",
    "TurnOutput",
    "TurnResult",
    "TurnStream",
)
# Names of the language, and what only lash's own tests and its command hand in.
ELSEWHERE = {"Any", "Awaitable", "Callable", "ForwardRef", "Iterable", "Literal", "Mapping", "None", "Path", "Sequence"}
INTERNAL = {"CrashPoint", "ResidentLog"}
PUBLIC = [getattr(api, name) for name in api.__all__]


def annotations_of(name: str) -> Iterator[tuple[str, str]]:
    """Every annotation of the public members and fields of a class, with the member's name."""
    for field, annotation in getattr(getattr(api, name), "__annotations__", {}).items():
        if not field.startswith("_"):
            yield f"{name}.{field}", str(annotation)
    for member, value in inspect.getmembers(getattr(api, name)):
        if member.startswith("_") and not (member == "__init__" and name in BUILT):
            continue
        function = value.fget if isinstance(value, property) else value
        for annotation in getattr(function, "__annotations__", {}).values():
            yield f"{name}.{member}", str(annotation)


@pytest.mark.parametrize("name", [*BUILT, *HANDED_OUT])
def test_what_a_public_signature_names_is_public(name: str) -> None:
    known = {*api.__all__, *ELSEWHERE, *INTERNAL}
    found = list(annotations_of(name))
    assert found
    missing = {
        (member, word)
        for member, annotation in found
        for word in re.findall(r"\b[A-Z][A-Za-z]+\b", annotation)
        if word not in known
    }
    assert not missing


# What only somebody who writes a store or an effect host of their own reads: it stands in `lash_cli.core` and `store`.
# A key of a wait is handed on whole; what it says of the wait is read by the host that signed it.
DEEPER = ("AwaitEventKey", "EffectHost", "RuntimePersistence", "SqliteStore")


def test_what_a_public_record_is_made_of_is_public() -> None:
    """Whoever is handed a record can tell its parts apart, and whoever builds one can build its parts."""
    known = {*api.__all__, *ELSEWHERE, "LashError", "Struct", "UnsetType"}
    missing = set()
    for record in PUBLIC:
        if isinstance(record, type) and record.__name__ not in DEEPER:
            words = re.findall(
                r"\b[A-Z][A-Za-z]+\b", " ".join(map(str, getattr(record, "__annotations__", {}).values()))
            )
            home = vars(sys.modules[record.__module__])
            # A set of words needs no name: its words are what one writes.
            missing |= {(record, word) for word in words if word not in known and get_origin(home[word]) is not Literal}
    assert not missing


@pytest.mark.parametrize("name", [name for name in api.__all__ if get_args(getattr(api, name))])
def test_every_member_of_a_public_union_is_public(name: str) -> None:
    for member in get_args(getattr(api, name)):
        assert not isinstance(member, type) or not member.__module__.startswith("lash_cli") or member in PUBLIC


@pytest.mark.parametrize("name", api.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(lash_cli, name) is getattr(api, name)
    assert name in dir(lash_cli)


def test_a_type_checker_sees_the_public_names_and_no_others() -> None:
    """The stub is read by both, and by a type checker as Python: it says one name after another, each in its home."""
    stub = ast.parse((Path(api.__file__).parent / "__init__.pyi").read_text())
    seen = [alias for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert all(alias.name == alias.asname for alias in seen)
    assert sorted(alias.name for alias in seen) == api.__all__
    for node in stub.body:
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            assert getattr(importlib.import_module(str(node.module)), alias.name) is getattr(api, alias.name)


def test_a_store_has_the_properties_of_its_protocol_as_properties() -> None:
    """A cached one will not do: to Pyright it is none, and no core could be given the store."""
    wanted = [name for name, value in inspect.getmembers(api.RuntimePersistence) if isinstance(value, property)]
    assert {"live", "durability_tier"} <= set(wanted)
    assert all(isinstance(inspect.getattr_static(api.SqliteStore, name), property) for name in wanted)


def test_everything_is_what_a_star_imports() -> None:
    everything: dict[str, object] = {}
    exec("from lash_cli import *", everything)
    assert {*api.__all__, "__version__"} == {*lash_cli.__all__} == {*everything} - {"__builtins__"}


@pytest.mark.parametrize("name", api.__all__)
def test_help_tells_of_every_public_name(name: str) -> None:
    """A record whose parts nobody imported has no signature, and one such is the end of `help(lash_cli)`."""
    assert name in pydoc.plain(pydoc.render_doc(getattr(api, name), "%s " + name))


def test_every_public_class_and_function_says_what_it_is() -> None:
    spoken = [value for value in PUBLIC if isinstance(value, type) or inspect.isfunction(value)]
    assert not [value for value in spoken if not value.__doc__]


def test_the_package_itself_costs_nothing_until_a_name_is_used() -> None:
    program = "import sys, lash_cli; print(*(name for name in sys.modules if name.startswith('lash_cli')))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["lash_cli"]


FIRST_TURN = """
import asyncio, sys
from lash_cli import LashCore, ModelSpec, SqliteStore, provider

async def main(path):
    store = SqliteStore.open(path)
    async with LashCore(provider=provider("loopback"), model=ModelSpec("loopback"), store=store) as core:
        async with await core.open_session("s") as session:
            before = set(sys.modules)
            await session.turn("hello").run()
            print(*(name for name in set(sys.modules) - before if name.startswith("lash_cli")))

asyncio.run(main(sys.argv[1]))
"""


def test_the_first_turn_of_a_program_that_drives_its_sessions_waits_for_no_import(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FIRST_TURN, str(tmp_path / "lash.db")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    # Only what the provider itself needs for its first answer.
    assert [name for name in ran.stdout.split() if not name.startswith("lash_cli.providers")] == []


WATCHING = (
    "SessionCursor", "SessionObservation", "SessionObservationEvent", "LiveReplayGap", "ObservableSession",
    "RemoteSessionCursor", "RemoteSessionObservation", "RemoteSessionObservationEvent", "RemoteLiveReplayGap",
    "RemoteSessionObservationEventStream", "RemoteSessionObservationStream",
)  # fmt: skip
OBSERVABLE = (
    "current_observation", "current_remote_observation", "resume_from_cursor", "subscribe_from_cursor",
    "subscribe_from_remote_cursor", "subscribe_and_recover", "subscribe_and_recover_remote", "session_id",
    "policy_snapshot", "read_view", "usage_report", "tool_state", "active_tool_manifests", "list_process_handles",
    "list_all_process_handles", "process_scope",
)  # fmt: skip


def test_every_founding_name_of_watching_is_public() -> None:
    """Contract 04: what is marked as named by the seed."""
    assert set(WATCHING) <= set(api.__all__)
    assert all(hasattr(api.ObservableSession, name) for name in OBSERVABLE)
    assert all(hasattr(api.LashSession, name) for name in ("observe", "read_view", "usage_report"))
    assert inspect.iscoroutinefunction(api.LashSession.set_turn_phase_probe)


def test_the_package_is_used_from_an_archive_too(tmp_path: Path) -> None:
    """As a program that is shipped as one file has it, where none of its modules is a file."""
    package = Path(lash_cli.__file__).parent
    archive = tmp_path / "program.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in package.rglob("*.py*"):
            if path.suffix in (".py", ".pyi"):
                file.write(path, path.relative_to(package.parent))
    asked = f"import sys; sys.path.insert(0, {str(archive)!r})\n"
    asked += "import lash_cli; from lash_cli import *; print(lash_cli.__file__, LashCore.__name__)"
    ran = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout == f"{archive}/lash_cli/__init__.py LashCore\n", ran.stderr
