"""`lash chat` on a disk that takes no more: what is typed is not lost (contract 08 §7.3)."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable

import pytest
from support.chat import Chat

FACES = pytest.mark.parametrize(("args", "prompt"), [((), "fjord ❯"), (("--plain",), "status: idle")])

pytestmark = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="no limit can be set for another process here")


def fill(one: Chat, limit: int = 1024) -> None:
    """A limit on the size of any file stands for the full disk."""
    resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@FACES
def test_what_can_be_kept_nowhere_is_told_as_the_chat_ends(
    chat: Callable[..., Chat], args: tuple[str, ...], prompt: str
) -> None:
    one = chat(*args, prompt=prompt)
    fill(one)
    one.press("precious words\\\n" if args else "precious words")
    one.wait_for("history and drafts are not saved")
    one.process.send_signal(signal.SIGTERM)
    assert one.ended() == 5
    assert "not sent, and kept nowhere: precious words" in one.text


@FACES
@pytest.mark.parametrize("way", ["", "/later "])
def test_a_text_of_which_nobody_knows_whether_it_arrived_is_the_draft_of_the_next_chat(
    chat: Callable[..., Chat], args: tuple[str, ...], prompt: str, way: str
) -> None:
    one = chat(*args, prompt=prompt)
    fill(one)
    one.press(f"{way}precious words\r")
    one.wait_for("if the text did not arrive, the next chat of this session begins with it")
    fill(one, resource.RLIM_INFINITY)
    one.process.send_signal(signal.SIGTERM)
    assert one.ended() == 143
    two = chat(*args, prompt=prompt)
    two.wait_for("draft: precious words" if args else "fjord ❯ precious words")
