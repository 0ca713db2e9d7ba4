"""What is read in a process of its own gets no more memory than it may (contract 05 §6)."""

from __future__ import annotations

import ctypes
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from support.clock import ManualCancel

from lash_cli.system import SystemClock
from lash_cli.tools.process_group import ProcessGroups
from lash_cli.tools.workers import run_worker

MIB = 1024**2
# Of Linux, to take a right of root away.
PR_CAPBSET_DROP = 24
CAP_SYS_RESOURCE = 24

TELLS_OF_ITSELF = """
import os, resource
print(resource.getrlimit(resource.RLIMIT_AS)[0], *(name for name in os.environ if name.startswith("LASH_")))
"""
READS_BOTH = """
import asyncio, json, sys
from pathlib import Path
from support.tools import Workbench
from test_tools_pdf import document
async def main():
    bench = Workbench(Path(sys.argv[1]))
    bench.write("a.pdf", document(("needle",)))
    bench.write("a.txt", "needle")
    answers = [await bench.call("read_file", path="a.pdf"), await bench.call("grep", pattern="needle")]
    await bench.provider.aclose()
    print(json.dumps([answer.status for answer in answers]))
asyncio.run(main())
"""


async def test_a_worker_has_the_memory_it_was_given_and_none_of_our_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASH_API_KEY", "secret")
    script = tmp_path / "worker.py"
    script.write_text(TELLS_OF_ITSELF)
    groups = ProcessGroups(SystemClock())
    output = await run_worker(groups, script, (), b"", ManualCancel(), 30, memory_bytes=512 * MIB)
    await groups.aclose()
    assert output == f"{512 * MIB}\n".encode()


async def test_a_worker_gets_no_more_memory_than_we_have_ourselves(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(TELLS_OF_ITSELF)
    held = resource.getrlimit(resource.RLIMIT_AS)
    groups = ProcessGroups(SystemClock())
    most = 2**40  # the limit is for this process, too
    resource.setrlimit(resource.RLIMIT_AS, (most, held[1]))
    try:
        output = await run_worker(groups, script, (), b"", ManualCancel(), 30, memory_bytes=2 * most)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, held)
        await groups.aclose()
    assert output == f"{most}\n".encode()


@pytest.mark.skipif(sys.platform != "linux", reason="takes a right of root away")
def test_documents_and_files_are_read_also_where_less_memory_is_allowed_than_they_may_take(tmp_path: Path) -> None:
    def confined() -> None:
        """As with `ulimit -v`, for a process that may not raise it again, as even root may."""
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE)
        resource.setrlimit(resource.RLIMIT_AS, (700 * MIB, 700 * MIB))

    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", READS_BOTH, str(tmp_path)],
        env={"PYTHONPATH": ":".join((*sys.path, str(here), str(here.parent)))},
        capture_output=True,
        preexec_fn=confined,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["success", "success"]
