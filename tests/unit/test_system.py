"""Ids of this machine (contract 08 §4, design D18)."""

from __future__ import annotations

import subprocess
import sys

from lash_cli.core.ids import is_session_id
from lash_cli.system import SystemIds

_FORKS = """
import os
from lash_cli.system import SystemIds

ids = SystemIds()
ids.token()
child = os.fork()
if child:
    os.waitpid(child, 0)
print(ids.token(), ids.new("t"), flush=True)
"""


def test_ids_and_tokens_are_never_drawn_twice() -> None:
    ids = SystemIds()
    made = [ids.new("t") for _ in range(200)]
    tokens = [ids.token() for _ in range(200)]
    assert len(set(made)) == 200 and all(len(one) == 28 and is_session_id(one) for one in made)
    assert len(set(tokens)) == 200 and all(len(bytes.fromhex(token)) == 16 for token in tokens)


def test_a_forked_process_draws_nothing_that_its_parent_draws() -> None:
    done = subprocess.run([sys.executable, "-c", _FORKS], capture_output=True, text=True, timeout=60, check=True)
    (token, made), (other_token, other_made) = (line.split() for line in done.stdout.splitlines())
    assert token != other_token and made[-16:] != other_made[-16:]
