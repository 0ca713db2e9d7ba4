"""The chat on a terminal: a prompt in normal scrollback, what settled above it (contract 08 §7).

prompt_toolkit owns the terminal and everything here is its edge: keys become
decisions of `rules`, and state becomes the lines around the prompt. Settled
blocks are written above the prompt in one piece with its redraw; no other
writer touches the terminal while the prompt stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shlex
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence

import msgspec
from prompt_toolkit.application import Application, in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, ThreadedCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.history import History
from prompt_toolkit.input import create_input
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output

from lash_cli.core.tools import ToolCall, ToolManifest
from lash_cli.errors import LashError
from lash_cli.repl import keys, rules
from lash_cli.repl.bindings import bindings
from lash_cli.repl.client import ChatClient
from lash_cli.repl.completion import ChatCompleter, files_below
from lash_cli.repl.keymap import Action
from lash_cli.repl.layout import chat_layout, chat_style
from lash_cli.repl.panels import Panel
from lash_cli.repl.pastes import CUT, expanded, is_folded, normalised, placeholder
from lash_cli.repl.questions import Questions, busy_panel
from lash_cli.repl.rules import Do
from lash_cli.repl.slash import SESSION
from lash_cli.repl.spawning import at_terminal, said_by
from lash_cli.views.chat_blocks import rich_block
from lash_cli.views.chat_lines import ChatGlyphs
from lash_cli.views.chat_picture import Block
from lash_cli.views.safe_text import ascii_marks, ascii_text, safe_text

AUTOSAVE_SECONDS = 0.1
TOOL_LINES = 20
# Begins at the end, and leaves what was read in the scrollback.
USUAL_PAGER = "less -FIRX +G"
UNICODE_GLYPHS = ChatGlyphs()


class FaceOptions(msgspec.Struct, frozen=True):
    """How the terminal looks and is typed at."""

    keys: dict[Action, tuple[tuple[str, ...], ...]]
    toolbar: tuple[str, ...] = ("model", "ctx", "queue", "lease", "cost")
    is_vi: bool = False
    color: bool = True
    ascii_only: bool = False
    glyphs: ChatGlyphs = UNICODE_GLYPHS
    directory: str = "."


class LineHistory(History):
    """The lines of all chats, newest first; stashed drafts stand before them and are kept elsewhere."""

    def __init__(self, lines: Sequence[str], keep: Callable[[str], None]) -> None:
        super().__init__()
        self._lines = lines
        self._keep = keep
        self._is_stashing = False

    def load_history_strings(self) -> Iterable[str]:
        """The newest first."""
        return self._lines

    def store_string(self, string: str) -> None:
        """A line was sent."""
        if not self._is_stashing:
            self._keep(string)

    def put_stash(self, text: str) -> None:
        """Let ↑ bring `text` back first."""
        self._is_stashing = True
        try:
            self.append_string(text)
        finally:
            self._is_stashing = False


class _Searches(ThreadedCompleter):
    """Says when a search has ended: the buffer begins none meanwhile, and afterwards only for a text that goes on from
    the one it was for."""

    def __init__(self, completer: Completer, ended: Callable[[str], None]) -> None:
        """`ended` gets the text that was searched for, once another search may begin."""
        super().__init__(completer)
        self._ended = ended

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        """What the completer finds."""
        try:
            async with contextlib.aclosing(super().get_completions_async(document, complete_event)) as found:
                async for completion in found:
                    yield completion
        finally:
            asyncio.get_running_loop().call_soon(self._ended, document.text_before_cursor)


class PromptFace:
    """The prompt; implements `desk.Face`."""

    def __init__(
        self,
        client: ChatClient,
        options: FaceOptions,
        history: LineHistory,
        on_line: Callable[[str], None],
    ) -> None:
        """`on_line` gets what is submitted: slash commands, shell lines and text, with pastes expanded."""
        self.client = client
        self.options = options
        self._on_line = on_line
        self._history = history
        self._pastes: dict[int, str] = {}
        self._above: list[str] = []
        self._is_away = False
        self._has_ended = False
        self._over = asyncio.Event()
        self.questions = Questions(self)
        self._save_timer: asyncio.TimerHandle | None = None
        self._typed = ""
        self.buffer = Buffer(
            completer=_Searches(
                ChatCompleter(lambda: files_below(options.directory), self._candidates), self._search_ended
            ),
            complete_while_typing=True,
            history=history,
            enable_history_search=True,
            multiline=True,
            on_text_changed=self._text_changed,
            on_text_insert=self._text_inserted,
        )
        source = create_input()
        keys.listen_quietly(source)
        output = Vt100_Output.from_pty(sys.stdout, term=os.environ.get("TERM"))
        # Asking where the cursor is puts bytes among the keys, and nothing here needs the answer.
        output.enable_cpr = False
        self.app: Application[None] = Application(
            layout=chat_layout(self),
            style=chat_style(),
            key_bindings=bindings(self),
            editing_mode=EditingMode.VI if options.is_vi else EditingMode.EMACS,
            color_depth=None if options.color else ColorDepth.DEPTH_1_BIT,
            include_default_pygments_style=False,
            erase_when_done=True,
            min_redraw_interval=1 / 50,
            terminal_size_polling_interval=None,
            input=source,
            output=output,
        )
        self.app.ttimeoutlen = keys.SEQUENCE_SECONDS
        self.app.timeoutlen = keys.CHORD_SECONDS
        self.app.key_processor.after_key_press += self._key_pressed

    async def run(self) -> None:
        """See `Face`. Raises `EOFError` when the terminal is gone."""
        self._flush_above()
        # A line that is meant for an empty draft is not to send what an earlier chat left.
        ahead = contextlib.nullcontext(False) if self.buffer.text else keys.typed_ahead(self.app.input)
        try:
            with ahead as is_cut:
                if is_cut:
                    self.client.tell(CUT)
                    self._flush_above()
                await self.app.run_async(handle_sigint=False, set_exception_handler=False)
        except OSError as error:
            if error.errno in (errno.EIO, errno.EBADF, errno.EPIPE):
                raise EOFError("the terminal is gone") from error
            raise
        finally:
            self._has_ended = True
            self.save_now()
            self._flush_above()

    def stop(self) -> None:
        """See `Face`. Who has the terminal is told to end: it is put right behind them."""
        self._over.set()
        if self.app.is_running and not self.app.is_done:
            self.app.exit()

    def show(self, blocks: Sequence[Block]) -> None:
        """See `Face`."""
        width = self.app.output.get_size().columns
        for block in blocks:
            self.write_above(rich_block(block, self.options.glyphs, color=self.options.color, width=width))

    def write_above(self, text: str) -> None:
        """Write `text`, which is safe for a terminal, above the prompt."""
        text = text if text.endswith("\n") else text + "\n"
        self._above.append(self.shown(text))
        if self.app.is_running:
            asyncio.get_running_loop().call_soon(self._flush_above)
        elif self._has_ended:
            self._flush_above()

    def _flush_above(self) -> None:
        if self._is_away or not self._above:
            return
        text, self._above = "".join(self._above), []
        with contextlib.suppress(OSError):  # a terminal that is gone is noticed where it is read
            if self.app.is_running:
                self.app.renderer.erase()
            self.app.output.write_raw(text.replace("\n", "\r\n"))
            if self.app.is_running:
                # At once, and not when the loop comes to it: the prompt must never be seen missing.
                self.app._redraw()
            self.app.output.flush()

    def refresh(self) -> None:
        """See `Face`."""
        self.app.invalidate()

    def shrink(self) -> None:
        """Draw anew from the first line: what stands above the prompt became less."""
        if self.app.is_running and not self._is_away:
            self.app.renderer.erase()
            self.app._redraw()

    def shown(self, line: str) -> str:
        """A text as this terminal gets it."""
        return ascii_text(ascii_marks(line)) if self.options.ascii_only else line

    def set_text(self, text: str) -> None:
        """See `Face`."""
        if self.questions.keep_draft(text):
            return
        self.buffer.document = Document(text, len(text))
        self.refresh()

    def stash_changed(self, text: str) -> None:
        """See `Face`."""
        self._history.put_stash(text)
        self.buffer.reset(Document(self.buffer.text, self.buffer.cursor_position))

    async def run_verb(self, command: Sequence[str], *, is_interactive: bool) -> int:
        """See `Face`."""
        if is_interactive:
            async with self._away():
                return await at_terminal(command, self._over)
        said = await said_by(command)
        if said.text.strip():
            self.write_above(said.text)
        return said.status

    @contextlib.asynccontextmanager
    async def _away(self) -> AsyncIterator[None]:
        """The terminal belongs to another program; what settles meanwhile is written afterwards."""
        async with in_terminal():
            self._is_away = True
            try:
                yield
            finally:
                self._is_away = False
        self._flush_above()
        # One may have appeared meanwhile, unseen.
        self.questions.disturb()

    @property
    def text(self) -> str:
        """The draft with every paste in full."""
        return expanded(self.buffer.text, self._pastes)

    def _text_changed(self, _: Buffer) -> None:
        if not self.questions.is_reason and self._save_timer is None:
            with contextlib.suppress(RuntimeError):  # before the loop runs there is nothing typed
                self._save_timer = asyncio.get_running_loop().call_later(AUTOSAVE_SECONDS, self.save_now)

    def _text_inserted(self, buffer: Buffer) -> None:
        self._typed = buffer.document.text_before_cursor

    def _search_ended(self, sought: str) -> None:
        """Search for what was typed meanwhile, if nobody does."""
        is_new = self._typed == self.buffer.document.text_before_cursor and not self._typed.startswith(sought)
        if is_new and self.buffer.complete_state is None and self.app.is_running:
            self.buffer.start_completion()

    def save_now(self) -> None:
        """Write the draft down."""
        self._cancel_save()
        if not self.questions.is_reason:
            self.client.outbox.typed(self.text)

    def paste(self, text: str) -> None:
        """Insert a paste, folded when it is large."""
        text = normalised(text)
        if is_folded(text):
            number = len(self._pastes) + 1
            self._pastes[number] = text
            text = placeholder(number, text)
        self.buffer.insert_text(text)

    def expand(self) -> None:
        """Unfold every paste of the draft; without one show the beginning of what the last tool said."""
        text = self.text
        if text != self.buffer.text:
            self.buffer.document = Document(text, len(text))
        else:
            self.show_tool(TOOL_LINES)

    def show_tool(self, limit: int | None) -> None:
        """Show what the last tool said, at most `limit` lines of it."""
        said = self.client.watch.last_tool
        if said is None:
            self.client.tell("no tool was called yet")
            return
        lines = said.rstrip("\n").split("\n")
        if limit is not None and len(lines) > limit:
            lines = [*lines[:limit], f"({len(lines) - limit} more lines: Alt-O shows all)"]
        self.show([Block("tool", "\n".join(lines))])

    async def page(self) -> None:
        """Show the committed transcript in the user's pager, from its end; the chat goes on below it."""
        log = shlex.join(self.client.desk.verb(["log", self.client.watch.session_id]))
        pager = os.environ.get("PAGER") or USUAL_PAGER
        status = await self.run_verb(["sh", "-c", f"{log} | {pager}"], is_interactive=True)
        if status != 0:
            self.client.tell(f"the pager ended with status {status}: {pager}")

    async def edit(self) -> None:
        """Edit the draft in the user's editor; when that fails the draft stays as it was."""
        edited = await self.client.edit_text(self.text)
        if edited is not None:
            self.buffer.document = Document(edited, len(edited))

    def moment(self) -> rules.Moment:
        """What the next decision depends on."""
        buffer = self.buffer
        has_popup = self.has_suggestions or buffer.selection_state is not None
        return self.client.moment(
            has_draft=bool(buffer.text.strip()), has_popup=has_popup, has_panel=self.questions.is_closable
        )

    def _candidates(self, words: Sequence[str]) -> list[tuple[str, str]]:
        session_id = self.client.watch.session_id
        return self.client.desk.candidates([session_id if word == SESSION else word for word in words])

    @property
    def has_suggestions(self) -> bool:
        """Whether suggestions are shown. While they are only being looked for, a key is not theirs."""
        state = self.buffer.complete_state
        return state is not None and bool(state.completions)

    def act(self, do: Do) -> None:
        """Carry out a decision."""
        match do:
            case Do.CLOSE_POPUP:
                self.buffer.cancel_completion()
                self.buffer.exit_selection()
            case Do.CLOSE_PANEL:
                self.questions.close()
            case Do.DELETE:
                self.buffer.delete()
            case Do.HISTORY:
                self.buffer.complete_state = None
                self.buffer.auto_up()
            case Do.HINT_EMPTY:
                if self.client.turn_standing() != "none":
                    self.client.tell("type a text first: Tab queues it for the next turn")
            case Do.ACCEPT:
                self._accept_suggestion()
            case Do.SEND | Do.INJECT | Do.OFFER | Do.QUEUE_NEXT:
                self._submit(do)
            case _:
                self.save_now()
                self.client.carry_out(do, "")
        self.refresh()

    def interrupt(self) -> None:
        """See `Face`."""
        if not self.app.is_running:
            self.client.stop("signal", status=130)
        elif not self._is_away:
            self.act(rules.on_interrupt(self.moment(), self.client.options.ctrl_c))

    def up(self) -> None:
        """↑ in the first line of the draft."""
        if self.has_suggestions:
            self.buffer.complete_previous()
        else:
            self.act(rules.on_up(self.moment()))

    def redraw(self) -> None:
        """Ctrl-L."""
        self.app.renderer.clear()
        self.refresh()

    def suspend(self) -> None:
        """Ctrl-Z: as where the terminal makes a signal of it, for everybody who works at this terminal with us."""
        os.kill(0, signal.SIGTSTP)

    def suspended(self) -> None:
        """See `Face`."""
        if self.app.is_running and not self._is_away:
            self._flush_above()
            self.save_now()
            self.app.renderer.erase()

    def resumed(self) -> None:
        """See `Face`."""
        if self.app.is_running and not self._is_away and keys.taken_again(self.app.input):
            self.app.renderer.reset()
            self.app._redraw()

    def pick_rewind(self) -> None:
        """Esc twice: choose where to go back to; anywhere but at an empty draft in an idle session it is one Esc."""
        moment = self.moment()
        if moment.has_draft or moment.has_popup or moment.has_panel or moment.turn != "none":
            self.act(rules.on_escape(moment))
        else:
            self._has_line("/rewind ?")

    def edit_queue(self) -> None:
        """Edit what waits, in the user's editor."""
        self._has_line("/queue edit")

    def submit(self) -> None:
        """Enter."""
        if not self.questions.submit():
            self.act(rules.on_submit(self.moment()))

    def _submit(self, do: Do) -> None:
        text = self.text
        if text.startswith(("/", "!")) or text.strip() in ("exit", "quit"):
            if not self._has_line(text):
                return
            self._sent(text)
            return
        text = text.removeprefix(" ") if text.startswith((" /", " !")) else text
        if do is Do.OFFER:
            self.client.carry_out(do, text)
            return
        self._cancel_save()
        self.client.carry_out(do, text)
        self._sent(text)

    def send_draft(self, send: Callable[[str], None]) -> None:
        """Hand the whole draft, if there is one, to `send`."""
        text = self.text
        if text.strip():
            self._cancel_save()
            send(text)
            self._sent(text)

    def _has_line(self, text: str) -> bool:
        """Hand a command line on; False when it was refused and stays the draft."""
        if text.startswith("//"):
            self._cancel_save()
            self.client.submit(text[1:])
            return True
        try:
            self._on_line(text)
        except LashError as error:
            self.client.tell_error(error)
            return False
        return True

    def _sent(self, text: str) -> None:
        """The draft left: remember the line and begin a new one."""
        self._history.append_string(text)
        self.buffer.reset()
        self._pastes.clear()
        self.save_now()

    def _cancel_save(self) -> None:
        if self._save_timer is not None:
            self._save_timer.cancel()
            self._save_timer = None

    def _accept_suggestion(self) -> None:
        state = self.buffer.complete_state
        assert state is not None, "accepted only while suggestions are shown"
        self.buffer.apply_completion(state.current_completion or state.completions[0])

    @property
    def prompt(self) -> str:
        """What stands before the draft."""
        name = "reason" if self.questions.is_reason else safe_text(self.client.watch.row.meta.name)
        return self.shown(f"{name} {self.options.glyphs.prompt} ")

    def _key_pressed(self, _: object) -> None:
        self.questions.disturb()

    def choose(self, panel: Panel) -> None:
        """See `Face`."""
        self.questions.open(panel)

    def offer(self, text: str) -> None:
        """See `Face`: what is asked about is the draft as it stands when it is answered."""
        self.questions.open(busy_panel(self.client, self.send_draft))

    async def ask(self, manifest: ToolManifest, call: ToolCall) -> str:
        """See `Face`."""
        return "no" if self.client.asks_nobody else await self.questions.ask(manifest, call)

    def withdraw(self) -> None:
        """See `Face`."""
        self.questions.withdraw()
