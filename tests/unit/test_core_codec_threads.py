"""Records that several threads meet at once for the first time (docs/decisions/0017)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lash_cli.core import codec

PROGRAM = """
import sys
import threading

from lash_cli.core.codec import Record, decode_any, from_builtins

sys.setswitchinterval(1e-6)
DOCUMENT = '{"middle":{"inner":{"number":1,"words":["a"]},"number":2}}'
PLAIN = {"middle": {"inner": {"number": 1, "words": ["a"]}, "number": 2}}


def records():
    class Inner(Record):
        number: int
        words: tuple[str, ...] = ()

    class Middle(Record):
        inner: Inner
        number: int = 1

    class Outer(Record):
        middle: Middle

    return Outer


def decoded(kind, start, found):
    start.wait()
    found.append(decode_any(DOCUMENT, kind))


def converted(kind, start, found):
    start.wait()
    found.append(from_builtins(PLAIN, kind))


for _ in range(60):
    outer, start, found = records(), threading.Barrier(4), []
    threads = [threading.Thread(target=WAY, args=(outer, start, found)) for WAY in (WAYS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1 and found[0].middle.inner.words == ("a",)
"""


@pytest.mark.parametrize("ways", ["decoded,", "converted,", "decoded, converted,"])
def test_threads_that_meet_a_record_at_once_for_the_first_time_all_decode_it(ways: str) -> None:
    each = f"({ways}) * {4 // ways.count(',')}"
    program = PROGRAM.replace("(WAYS)", each)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_nothing_but_the_codec_asks_msgspec_for_records() -> None:
    asks = re.compile(r"msgspec\.convert\(|\.Decoder\(|json\.decode\([^)]*type=(?!str\))")
    package = Path(codec.__file__).parents[1]
    found = [path.name for path in package.rglob("*.py") if asks.search(path.read_text(encoding="utf-8"))]
    assert found == ["codec.py"]
