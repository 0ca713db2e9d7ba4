"""The questions of the prompt: which one stands, what answers it, and the reason of a refusal (contract 08 §7.4).

Letters answer; the draft is left alone. A tool's question is not answered by
somebody who is typing: while there is a draft its letters are text, and Ctrl-C
puts the draft aside first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from lash_cli.core.tools import ToolCall, ToolManifest
from lash_cli.repl.panels import GUARD_SECONDS, Choice, Guard, Panel
from lash_cli.views.safe_text import safe_text
from lash_cli.views.turn_text import asked_text

if TYPE_CHECKING:
    from lash_cli.repl.client import ChatClient
    from lash_cli.repl.terminal import PromptFace

# As much as is read at once, and as the part of a small terminal that they may take has room for.
ARGS_CHARS = 200
ARGS_SHARE = 8


class Questions:
    """The questions of one prompt; the newest of the chat's own stands before those of tools, in their order."""

    def __init__(self, face: PromptFace) -> None:
        self._face = face
        self._panels: list[Panel] = []
        self._asked: list[tuple[Panel, asyncio.Future[str]]] = []
        self._guard = Guard()
        # The question whose refusal is being given a reason, and the draft that waits meanwhile.
        self._reason_for: tuple[asyncio.Future[str], str] | None = None

    @property
    def panel(self) -> Panel | None:
        """The question that stands."""
        self._panels = [panel for panel in self._panels if not panel.is_over()]
        if self._panels:
            return self._panels[-1]
        return self._asked[0][0] if self._asked else None

    @property
    def is_reason(self) -> bool:
        """Whether what is typed is the reason of a refusal."""
        return self._reason_for is not None

    @property
    def is_closable(self) -> bool:
        """Whether Esc and Ctrl-C close something here."""
        panel = self.panel
        return self.is_reason or (panel is not None and panel.is_closable)

    @property
    def is_answerable(self) -> bool:
        """Whether a letter pressed now is an answer."""
        panel = self.panel
        if panel is None or self.is_reason or not self._guard.is_open(_now()):
            return False
        return panel.is_closable or not self._face.buffer.text.strip()

    def takes(self, letter: str) -> bool:
        """Whether `letter` pressed now answers."""
        panel = self.panel
        return panel is not None and letter in panel.choices and self.is_answerable

    def disturb(self) -> None:
        """A question appeared, or a key was pressed while one stands: nothing answers for a moment."""
        if self.panel is not None:
            self._guard.disturbed(_now())
            asyncio.get_running_loop().call_later(GUARD_SECONDS + 0.02, self._face.refresh)
            self._face.refresh()

    def open(self, panel: Panel) -> None:
        """Ask something of the chat's own, once."""
        self._panels = [*(other for other in self._panels if other is not panel), panel]
        self.disturb()

    def answer(self, letter: str) -> None:
        """Answer the question that stands."""
        panel = self.panel
        if panel is None:
            return
        if self._panels:
            self._panels.pop()
        panel.choices[letter].act()
        self._face.shrink()

    def submit(self) -> bool:
        """Enter: give the reason, or the usual answer; False when Enter is the draft's."""
        if self.is_reason:
            self._give_reason()
            return True
        panel = self.panel
        if panel is None or panel.default is None:
            return False
        if self.is_answerable:
            self.answer(panel.default)
        return True

    def close(self) -> None:
        """Esc or Ctrl-C: go back from the reason, or close the question."""
        if self.is_reason:
            self._end_reason()
        elif self._panels:
            self._panels.pop()
        self._face.shrink()

    async def ask(self, manifest: ToolManifest, call: ToolCall) -> str:
        """See `desk.Face.ask`."""
        answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def say(word: str) -> Callable[[], None]:
            return lambda: None if answered.done() else answered.set_result(word)

        name, args = safe_text(manifest.name), asked_text(call.args)
        size = self._face.app.output.get_size()
        if len(args) > min(ARGS_CHARS, size.columns * size.rows // ARGS_SHARE):
            self._face.write_above(f"{name} {args}")
            args = "all of it stands above"
        panel = Panel(
            f"allow {name} ({manifest.approval})?  {args}",
            {
                "y": Choice("yes, once", say("once")),
                "a": Choice("always in this session", say("always")),
                "n": Choice("no", say("no")),
                "e": Choice("no, because…", lambda: self._begin_reason(answered)),
            },
            is_closable=False,
        )
        entry = (panel, answered)
        self._asked.append(entry)
        self.disturb()
        try:
            return await answered
        finally:
            self._asked.remove(entry)
            if self._reason_for is not None and self._reason_for[0] is answered:
                self._end_reason()
            self._face.shrink()

    def withdraw(self) -> None:
        """See `desk.Face.withdraw`."""
        for _, answered in self._asked:
            if not answered.done():
                answered.set_result("no")

    def keep_draft(self, text: str) -> bool:
        """Take a draft that came from elsewhere while a reason is typed; False when none is."""
        if self._reason_for is None:
            return False
        self._reason_for = (self._reason_for[0], text)
        return True

    def _begin_reason(self, answered: asyncio.Future[str]) -> None:
        self._face.save_now()
        self._reason_for = (answered, self._face.buffer.text)
        self._face.buffer.reset()

    def _end_reason(self) -> None:
        if self._reason_for is not None:
            (_, draft), self._reason_for = self._reason_for, None
            self._face.set_text(draft)

    def _give_reason(self) -> None:
        if self._reason_for is not None:
            reason = self._face.buffer.text.strip()
            answered = self._reason_for[0]
            self._end_reason()
            if not answered.done():
                answered.set_result(reason or "no")


def _now() -> float:
    return asyncio.get_running_loop().time()


def busy_panel(client: ChatClient, send_draft: Callable[[Callable[[str], None]], None]) -> Panel:
    """Another process runs a turn: what becomes of the draft as it stands when this is answered. `send_draft` takes it
    out of the face."""
    who = client.desk.holder(client.watch.row) or "another process"

    def sending(send: Callable[[str], None]) -> Callable[[], None]:
        return lambda: send_draft(send)

    def cancel_theirs(text: str) -> None:
        client.cancel_turn("lash chat wants the session")
        client.wait_then_send(text)

    return Panel(
        f"{safe_text(client.watch.row.meta.name)} is busy: {safe_text(who)} runs a turn",
        {
            "q": Choice("queue it (Enter)", sending(client.queue_next)),
            "i": Choice("into their turn", sending(client.inject)),
            "w": Choice("wait, then send", sending(client.wait_then_send)),
            "c": Choice("cancel theirs", sending(cancel_theirs)),
        },
        default="q",
    )


def leaving_panel(client: ChatClient) -> Panel:
    """A turn of this chat runs, and its person wants to leave."""
    return Panel(
        "a turn of this chat runs",
        {
            "l": Choice("leave it to a worker", lambda: client.stop("abandoned")),
            "c": Choice("cancel it and quit", lambda: client.stop("quit")),
            "s": Choice("stay (Enter)", lambda: None),
        },
        default="s",
        is_over=lambda: client.turn_standing() != "own",
    )
