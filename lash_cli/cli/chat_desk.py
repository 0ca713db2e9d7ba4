"""The command line behind a chat: status words, prices, shell verbs, the editor, and which face it has."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from lash_cli.cli.documents import session_status
from lash_cli.cli.exit_status import SIGNAL_EXIT_BASE, turn_error
from lash_cli.cli.invocation import Invocation
from lash_cli.cli.output import safe
from lash_cli.cli.signals import die_of, given_back, handling, kill_beyond, suspending, write_at_once
from lash_cli.cli.tail_keys import restore
from lash_cli.cli.tail_watched import holder_words
from lash_cli.errors import ConfigError, LashError, SessionClosed
from lash_cli.store.base import RuntimePersistence, SessionMeta, SessionRow
from lash_cli.system import is_definitely_dead
from lash_cli.views.shell_words import shell_word

if TYPE_CHECKING:
    from lash_cli.cli.chat_command import ChatPlan
    from lash_cli.core.content import AttachmentItem, TurnInput
    from lash_cli.core.outcome import TurnResult
    from lash_cli.core.policy import ModelSpec, PromptLayer
    from lash_cli.core.tools import ToolCall, ToolManifest
    from lash_cli.repl.client import ChatClient
    from lash_cli.repl.commands import Commands
    from lash_cli.repl.desk import Face
    from lash_cli.repl.memory import ReplMemory
    from lash_cli.runtime.history import HeadMove

_ENDING = (signal.SIGTERM, signal.SIGHUP)
# Colours and wrapping as usual, pastes without brackets, the cursor seen, and a line of its own for who writes next.
_USUAL_TERMINAL = "\x1b[0m\x1b[?7h\x1b[?2004l\x1b[?25h\r\n"
PLAIN_KEYS = """Enter   send; while a turn runs, send into it; an empty line sends what is queued
\\       at the end of a line: the text goes on in the next one
Ctrl-C  put a begun text aside, else cancel the turn, else stop what runs beside the chat; twice within 2 s
        without any of them: quit
Ctrl-D  quit"""


class ChatAsker:
    """Asks about tool calls through the face of the chat."""

    def __init__(self) -> None:
        self.face: Face | None = None

    async def __call__(self, manifest: ToolManifest, call: ToolCall) -> str:
        """`once`, `always`, `no`, or the reason of a refusal; `no` while nobody can be asked."""
        return "no" if self.face is None else await self.face.ask(manifest, call)


class ChatDesk:
    """Implements `repl.desk.Desk` over one invocation."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation

    def status(self, row: SessionRow, now_ms: int) -> str:
        """See `Desk`."""
        return session_status(row, now_ms, is_definitely_dead)

    def holder(self, row: SessionRow) -> str | None:
        """See `Desk`."""
        return holder_words(row)

    async def cost(self, store: RuntimePersistence, session_id: str) -> str | None:
        """See `Desk`. An estimate begins with a tilde."""
        from lash_cli.cli.spending import cost_of
        from lash_cli.views.usage import money
        from lash_cli.wiring import known_model

        totals = await store.usage_totals(session_id=session_id)
        try:
            cost = cost_of(totals, lambda model: known_model(self._invocation.settings, model).prices)
        except ConfigError:
            # A table that cannot be read is told by what needs it; to a toolbar its price is not known.
            return None
        return None if cost.micros is None else money(cost.micros, cost.currency, is_estimate=cost.is_estimate)

    def verb(self, words: Sequence[str]) -> list[str]:
        """See `Desk`."""
        # -P: nothing is imported from the directory of the chat, which may have a queue.py of its own.
        return [sys.executable, "-P", "-m", "lash_cli", *self._own_options(), *words]

    def candidates(self, words: Sequence[str]) -> list[tuple[str, str]]:
        """See `Desk`. They are those of `lash __complete`."""
        from lash_cli.cli.completing import CommandLine, Words

        try:
            return CommandLine(Words.read(), [*self._own_options(), *words]).complete()[0]
        except Exception:  # noqa: BLE001 - as everywhere in completion: no candidates instead of an error
            return []

    def _own_options(self) -> list[str]:
        """The options that lead to the places of this chat and say what it is told."""
        options = self._invocation.options
        command = options.places()
        if options.log_file is not None:
            command += ["--log-file", options.log_file]
        for override in options.overrides:
            command += ["-c", override]
        if self._invocation.output.ascii:
            command.append("--ascii")
        return command

    def cut_off_edit(self, session_id: str) -> str | None:
        """See `Desk`."""
        from lash_cli.cli.edit_journal import cut_off_note

        note = cut_off_note(session_id)
        return None if note is None else self._invocation.commands_here(note, before="!")

    def editor(self) -> list[str]:
        """See `Desk`."""
        from lash_cli.cli.editor import editor_command

        return editor_command(self._invocation.environment)

    def clipboard(self, text: str) -> str | None:
        """See `Desk`."""
        from lash_cli.cli.tail_keys import clipboard_sequence

        return clipboard_sequence(text)

    def model(self, name: str) -> ModelSpec:
        """See `Desk`."""
        from lash_cli.wiring import model_spec

        return model_spec(self._invocation.settings, name)

    def system_prompt(self, text: str) -> PromptLayer:
        """See `Desk`."""
        from lash_cli.cli.running import system_text
        from lash_cli.core.policy import session_prompt

        return session_prompt(system_text(text))

    async def last_said(self, store: RuntimePersistence, session_id: str) -> tuple[str, TurnInput]:
        """See `Desk`."""
        from lash_cli.cli.say_again import items_of, last_said
        from lash_cli.core.content import TurnInput

        message = await last_said(store, session_id)
        return message.id, TurnInput(items=items_of(message))

    def attachments(self, references: Sequence[str]) -> tuple[AttachmentItem, ...]:
        """See `Desk`."""
        from lash_cli.cli.attaching import read_attachments

        return read_attachments(references)

    def undo(self, move: HeadMove) -> str:
        """See `Desk`."""
        from lash_cli.cli.head_moves import undo_command

        return f"!{undo_command(move)}"

    async def find(self, store: RuntimePersistence, reference: str) -> str:
        """See `Desk`."""
        from lash_cli.cli.references import resolve_session

        meta = await resolve_session(store, reference)
        require_open(meta)
        return meta.session_id

    def error_text(self, error: LashError) -> str:
        """See `Desk`."""
        hint = f"\nhint: {self._invocation.commands_here(error.hint, before='!')}" if error.hint else ""
        return safe(f"{error.message}{hint}")

    def turn_error(self, result: TurnResult, provider: str) -> LashError | None:
        """See `Desk`."""
        return turn_error(result, {}, provider=provider, is_in_chat=True)

    def face(self, client: ChatClient, memory: ReplMemory, plan: ChatPlan) -> Face:
        """Who shows the chat.

        Raises `ConfigError` for keys that cannot be bound.
        """
        from lash_cli.repl.commands import Commands
        from lash_cli.repl.keymap import key_table, keys_text

        settings, output = self._invocation.settings, self._invocation.output
        configured, toolbar = settings.get("repl.keys") or {}, settings.get("repl.toolbar")
        if plan.is_plain:
            return self._plain_face(client, memory, Commands)
        from lash_cli.repl.terminal import FaceOptions, LineHistory, PromptFace
        from lash_cli.settings.schema import TOOLBAR_SLOTS
        from lash_cli.views.chat_lines import ASCII_CHAT_GLYPHS, ChatGlyphs

        options = FaceOptions(
            keys=key_table(configured),
            toolbar=TOOLBAR_SLOTS if toolbar is None else tuple(toolbar),
            is_vi=plan.is_vi,
            color=output.color,
            ascii_only=output.ascii,
            glyphs=ASCII_CHAT_GLYPHS if output.ascii else ChatGlyphs(),
            directory=client.options.cwd,
        )
        limit = client.options.history
        history = LineHistory(memory.lines(limit), lambda line: self._remember(client, memory, line))
        face = PromptFace(client, options, history, lambda line: commands.run(line))
        commands = Commands(client, keys_text=keys_text(configured), write=face.write_above, attach=face.paste)
        return face

    def _remember(self, client: ChatClient, memory: ReplMemory, line: str) -> None:
        """Keep a sent line; that it cannot be kept is no reason not to send it."""
        try:
            memory.remember(line, client.options.cwd, client.options.history)
        except LashError as error:
            client.tell_error(error)

    def _plain_face(self, client: ChatClient, memory: ReplMemory, make_commands: type[Commands]) -> Face:
        from lash_cli.repl.plain import PlainFace

        face = PlainFace(
            client,
            on_line=lambda line: commands.run(line),
            remember=lambda line: self._remember(client, memory, line),
            ascii_only=self._invocation.output.ascii,
        )
        commands = make_commands(client, keys_text=PLAIN_KEYS, write=face.write, attach=face.attach)
        return face


def require_open(meta: SessionMeta) -> None:
    """Raise `SessionClosed` for a session that takes no text."""
    if meta.closed_at_ms is not None:
        raise SessionClosed(
            f"session {meta.name} is closed", hint=f"reopen it with: lash resume {shell_word(meta.name)}"
        )


@contextmanager
def chat_signals(client: ChatClient, face: Face, *, is_drawn: bool) -> Iterator[None]:
    """While inside, SIGTERM and SIGHUP end the chat in order, a second one kills, SIGINT is Ctrl-C, and a chat that is
    stopped holds up nobody at the store. `is_drawn` says that it takes the terminal's keys and draws on it."""
    received: list[int] = []

    def end(number: signal.Signals) -> None:
        if received:
            die_of(number)
        received.append(number)
        client.stop("signal", status=SIGNAL_EXIT_BASE + number)

    def settle() -> None:
        if client.turns.is_active:
            client.tell("suspended: the running turn stands still, and is lost to others when its lease runs out")
        face.suspended()
        client.core.store.finish_writes()

    handlers: dict[signal.Signals, Callable[[], object]] = {number: partial(end, number) for number in _ENDING}
    handlers |= {signal.SIGINT: face.interrupt, **suspending(settle, face.resumed)}
    with handling(handlers) as handled:
        kill_beyond(1, [number for number in handled if number in _ENDING])
        with given_back(_terminal_as_it_is()) if is_drawn else contextlib.nullcontext():
            yield


def _terminal_as_it_is() -> Callable[[], None]:
    """What makes the terminal again what it is now, as far as that needs no waiting."""
    import termios

    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    try:
        settings = termios.tcgetattr(keyboard)
    except termios.error:
        return lambda: None  # gone already; whoever reads it finds out

    def give_back() -> None:
        restore(keyboard, settings, termios.TCSANOW)
        write_at_once(screen, _USUAL_TERMINAL)

    return give_back
