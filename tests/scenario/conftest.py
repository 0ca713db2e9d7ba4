"""Cores over a real SQLite file with a scripted model."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from support.made_files import lay
from support.scripted import ScriptedCaller
from support.tools import Workbench

from lash_cli.api import LashCore, SqliteStore
from lash_cli.core.policy import ModelSpec
from lash_cli.system import SystemClock, SystemIds

MakeCore = Callable[..., LashCore]
NOBODY = 65534


@pytest.fixture
async def make_core(tmp_path: Path) -> AsyncIterator[MakeCore]:
    """Builds cores over one store file; every core has its own connections, as another process would.

    Nobody drives a queue in the background unless a test asks for it.
    """
    cores: list[LashCore] = []

    def build(caller: ScriptedCaller, **options: object) -> LashCore:
        store = SqliteStore.open(lay(tmp_path / "home" / "lash.db"), clock=SystemClock(), ids=SystemIds())
        model = {} if "policy" in options else {"model": ModelSpec("model-1")}
        options = {"queue_driver": "none", **model, **options}
        core = LashCore(provider=caller, store=store, **options)  # type: ignore[arg-type]
        cores.append(core)
        return core

    yield build
    for core in cores:
        await core.aclose()


@pytest.fixture
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for bells of the test's own, with a path that is short enough, whatever the test is called."""
    place = Path(tempfile.mkdtemp(prefix="lb", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def nobodys_bench() -> Iterator[Workbench]:
    """A bench used without the powers of root; the directories of pytest are root's alone."""
    with tempfile.TemporaryDirectory() as base:
        os.chmod(base, 0o755)
        bench = Workbench(Path(base))
        if os.geteuid() != 0:
            yield bench
            return
        # Threads are used by tools, and are imported by their first use; Python may be out of reach of that user.
        importlib.import_module("concurrent.futures.thread")
        os.chown(bench.root, NOBODY, NOBODY)
        try:
            os.seteuid(NOBODY)  # of every thread
        except PermissionError:
            pytest.skip("root of this container may not become another user")
        try:
            yield bench
        finally:
            os.seteuid(0)
