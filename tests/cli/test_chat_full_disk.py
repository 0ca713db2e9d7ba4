"""`lash chat` on a disk that takes no more: what is typed is not lost (contract 08 §7.3)."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable

import pytest
from support.chat import Chat

FACES = pytest.mark.parametrize(("args", "prompt"), [((), "fjord ❯"), (("--plain",), "status: idle")])


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="no limit can be set for another process here")
@FACES
def test_what_can_be_kept_nowhere_is_told_as_the_chat_ends(
    chat: Callable[..., Chat], args: tuple[str, ...], prompt: str
) -> None:
    one = chat(*args, prompt=prompt)
    # A limit on the size of any file stands for the full disk.
    resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    one.press("precious words\\\n" if args else "precious words")
    one.wait_for("history and drafts are not saved")
    one.process.send_signal(signal.SIGTERM)
    assert one.ended() == 5
    assert "not sent, and kept nowhere: precious words" in one.text
