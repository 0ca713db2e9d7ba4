"""The chat in plain lines: for a terminal without redraw, and for a screen reader (contract 08 §7.1 `--plain`).

Nothing is drawn twice and nothing moves: every line begins with who says it,
and a state is told once, in words, when it changes. The terminal edits the line
being typed; a line that ends with a backslash goes on in the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from lash_cli.core.tools import ToolCall, ToolManifest
from lash_cli.errors import LashError
from lash_cli.repl import rules
from lash_cli.repl.client import ChatClient
from lash_cli.repl.panels import Choice, Panel
from lash_cli.repl.pastes import CUT, LINE_BYTES
from lash_cli.repl.questions import busy_panel
from lash_cli.repl.spawning import at_terminal, said_by
from lash_cli.views.chat_blocks import plain_block
from lash_cli.views.chat_picture import Block
from lash_cli.views.safe_text import ascii_marks, ascii_text, preview, safe_text
from lash_cli.views.turn_text import asked_text

READ_BYTES = 65_536
ASIDE_CHARS = 1_000


class PlainFace:
    """Lines in, lines out; implements `desk.Face`."""

    def __init__(
        self,
        client: ChatClient,
        *,
        on_line: Callable[[str], None],
        remember: Callable[[str], None],
        ascii_only: bool,
    ) -> None:
        """`on_line` gets slash commands and shell lines, `remember` every line that was sent."""
        self.client = client
        self._on_line = on_line
        self._remember = remember
        self._ascii_only = ascii_only
        self._over: asyncio.Future[None] | None = None
        self._stopped = asyncio.Event()
        # Held while another program has the terminal.
        self._program = asyncio.Lock()
        self._unread = b""
        self._begun: list[str] = []
        # A draft that is not being typed: what came back, or was left behind by an ended chat.
        self._kept = ""
        # Texts of which it is being asked what becomes of them.
        self._offered: list[str] = []
        self._panels: list[Panel] = []
        # What follows the answer that is being given.
        self._reason = ""
        self._answers: list[asyncio.Future[str]] = []
        self._told = ""
        self._reading = False

    async def run(self) -> None:
        """See `Face`. Raises `EOFError` when the terminal is gone."""
        self._over = asyncio.get_running_loop().create_future()
        self.write("note: type a text to send it; /help lists the commands, /later TEXT queues, Ctrl-C cancels\n")
        self.refresh()
        with self._keyboard(True):
            try:
                await self._over
            finally:
                async with self._program:
                    pass  # none has the terminal any more

    def stop(self) -> None:
        """See `Face`. Who has the terminal is told to end."""
        self._stopped.set()
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def show(self, blocks: Sequence[Block]) -> None:
        """See `Face`."""
        for block in blocks:
            text = plain_block(block)
            self.write(text if block.kind in ("user", "assistant") else ascii_marks(text))

    def write(self, text: str) -> None:
        """Write `text`, which is safe for a terminal, as lines."""
        text = text if text.endswith("\n") else text + "\n"
        with contextlib.suppress(OSError):  # a terminal that is gone is noticed where it is read
            sys.stdout.write(ascii_text(text) if self._ascii_only else text)
            sys.stdout.flush()

    def refresh(self) -> None:
        """See `Face`: tell what changed, once."""
        state = self._state()
        if state != self._told and self._over is not None:
            self._told = state
            self.write(state)

    def _state(self) -> str:
        client = self.client
        standing = client.turn_standing()
        status = "idle" if client.watch.status == "queued" else client.watch.status
        words = {"own": "a turn runs", "foreign": "another process runs a turn"}.get(standing, status)
        if client.is_cancelling:
            words = "cancelling"
        now = sum(waiting.is_now for waiting in client.watch.waiting)
        later = len(client.watch.waiting) - now
        queue = f"; queued: {now} for this turn, {later} for the next" if now or later else ""
        sends = "; an empty line sends what is queued" if standing == "none" and later else ""
        return f"status: {words}{queue}{sends}"

    @property
    def _beside(self) -> list[str]:
        """The pieces of the draft behind what is kept: what is asked about, and what was read of the next text."""
        return [*self._offered, *self._begun, *filter(None, [self._unread.decode("utf-8", "replace")])]

    def set_text(self, text: str) -> None:
        """See `Face`. A line being typed belongs to the terminal, so the text is kept beside it."""
        beside = "\n".join(self._beside)
        if beside and text.endswith(beside):
            text = text.removesuffix(beside).removesuffix("\n")
        else:
            self._offered, self._begun, self._unread = [], [], b""
        self._keep(text)

    def _keep(self, text: str) -> None:
        self._kept = text
        self.save_now()
        if text.strip():
            self.write(f"draft: {safe_text(text)}\nnote: an empty line sends this draft")

    def save_now(self) -> None:
        """See `Face`. The line being typed is the terminal's until it is ended."""
        self.client.outbox.typed("\n".join((*filter(str.strip, [self._kept]), *self._beside)))

    def stash_changed(self, text: str) -> None:
        """See `Face`."""
        self.write(f"put aside: {safe_text(preview(text, ASIDE_CHARS))}")

    def attach(self, text: str) -> None:
        """Add `text` to the draft."""
        self._keep(f"{self._kept}\n{text}" if self._kept.strip() else text)

    async def run_verb(self, command: Sequence[str], *, is_interactive: bool) -> int:
        """See `Face`."""
        if is_interactive:
            async with self._program:
                with self._keyboard(False):
                    return await at_terminal(command, self._stopped)
        said = await said_by(command)
        if said.text.strip():
            self.write(said.text)
        return said.status

    def choose(self, panel: Panel) -> None:
        """See `Face`. An answer begins with a slash, so that no text is one by accident."""
        self._panels = [*(other for other in self._panels if other is not panel), panel]
        answers = "".join(f"answer: /{letter} {choice.label}\n" for letter, choice in panel.choices.items())
        usual = f"note: an empty line is /{panel.default}\n" if panel.default is not None else ""
        self.write(ascii_marks(f"question: {panel.title}\n{answers}{usual}"))

    async def ask(self, manifest: ToolManifest, call: ToolCall) -> str:
        """See `Face`."""
        if self.client.asks_nobody:
            return "no"
        answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def say(word: str) -> Callable[[], None]:
            return lambda: None if answered.done() else answered.set_result(self._reason or word)

        panel = Panel(
            f"allow {safe_text(manifest.name)} ({manifest.approval})? {asked_text(call.args)}",
            {
                "y": Choice("yes, once", say("once")),
                "a": Choice("always in this session", say("always")),
                "n": Choice("no; what follows is the reason", say("no")),
            },
            is_closable=False,
        )
        self._answers.append(answered)
        self.choose(panel)
        try:
            return await answered
        finally:
            self._answers.remove(answered)
            if panel in self._panels:
                self._panels.remove(panel)

    def withdraw(self) -> None:
        """See `Face`."""
        for answered in self._answers:
            if not answered.done():
                answered.set_result("no")

    def offer(self, text: str) -> None:
        """See `Face`. What is typed before the answer is another text."""
        if self._kept == text:
            self._kept = ""
        self._offered.append(text)

        def answered(send: Callable[[str], None]) -> None:
            if text in self._offered:  # it may have been put aside
                self._offered.remove(text)
                send(text)

        self.choose(busy_panel(self.client, answered))
        self.save_now()

    def _is_answered(self, line: str) -> bool:
        """Whether `line` answers the question that stands, and then it is answered."""
        self._panels = [panel for panel in self._panels if not panel.is_over()]
        if not self._panels:
            return False
        panel = self._panels[-1]
        word, _, rest = line.strip().partition(" ")
        letter = word.removeprefix("/") if word.startswith("/") else panel.default if not word else None
        if letter is None or letter not in panel.choices:
            return False
        self._panels.remove(panel)
        self._reason = rest.strip() if letter == "n" else ""
        panel.choices[letter].act()
        return True

    def interrupt(self) -> None:
        """See `Face`."""
        if self._over is None:
            self.client.stop("signal", status=130)
            return
        if not self._reading:
            return
        moment = self.client.moment(has_draft=bool(self._begun or self._unread))
        self.client.carry_out(rules.on_interrupt(moment, self.client.options.ctrl_c), "")
        self.refresh()

    def suspended(self) -> None:
        """See `Face`. The terminal edits the line; nothing of it is ours."""

    def resumed(self) -> None:
        """See `Face`."""

    @contextlib.contextmanager
    def _keyboard(self, is_wanted: bool) -> Iterator[None]:
        """Read the keyboard in the block and not behind it, or the other way round."""
        self._read_keyboard(is_wanted)
        try:
            yield
        finally:
            self._read_keyboard(not is_wanted)

    def _read_keyboard(self, is_wanted: bool) -> None:
        loop = asyncio.get_running_loop()
        if is_wanted and not self._reading:
            loop.add_reader(sys.stdin.fileno(), self._read)
        elif not is_wanted and self._reading:
            loop.remove_reader(sys.stdin.fileno())
        self._reading = is_wanted

    def _read(self) -> None:
        try:
            data = os.read(sys.stdin.fileno(), READ_BYTES)
        except OSError:
            data = b""
        if not data:
            self._ended()
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            if len(line) < LINE_BYTES:
                self._line(line.decode("utf-8", "replace"))
            else:
                self.client.tell(CUT)
                self.attach(line.decode("utf-8", "replace"))
        self.save_now()
        self.refresh()

    def _ended(self) -> None:
        """Ctrl-D, or a terminal that is gone."""
        if not _is_alive(sys.stdin.fileno()):
            if self._over is not None and not self._over.done():
                self._over.set_exception(EOFError("the terminal is gone"))
            self._read_keyboard(False)
            return
        self.client.carry_out(rules.on_leave(self.client.moment(has_draft=bool(self._begun))), "")

    def _line(self, line: str) -> None:
        if not self._begun and self._is_answered(line):
            return
        if line.endswith("\\"):
            self._begun.append(line[:-1])
            return
        text = "\n".join((*self._begun, line))
        self._begun = []
        if not text.strip() and self._kept.strip():
            text, self._kept = self._kept, ""
        try:
            self._submit(text)
        except LashError as error:
            self.client.tell_error(error)

    def _submit(self, text: str) -> None:
        if text.startswith(("/", "!")) or text.strip() in ("exit", "quit"):
            self._on_line(text)
            return
        text = text.removeprefix(" ") if text.startswith((" /", " !")) else text
        do = rules.on_submit(self.client.moment(has_draft=bool(text.strip())))
        if text.strip():
            self._remember(text)
        self.client.carry_out(do, text)


def _is_alive(descriptor: int) -> bool:
    """Whether a terminal that has nothing to read is still there."""
    import termios

    try:
        termios.tcgetattr(descriptor)
    except termios.error:
        return False
    return True
