"""What a chat asks of the command line it was started from, and what it asks of whoever shows it.

The chat knows sessions; which words a status has, how a model is called in the
configuration and how a shell verb is run on the same home is the command
line's knowledge. The face is one of two: a prompt on a terminal, or plain lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lash_cli.core.content import AttachmentItem, TurnInput
from lash_cli.core.observation import SessionCursor, SessionObservationEvent
from lash_cli.core.outcome import TurnResult
from lash_cli.core.policy import ModelSpec, PromptLayer
from lash_cli.core.tools import ToolCall, ToolManifest
from lash_cli.errors import LashError
from lash_cli.repl.panels import Panel
from lash_cli.runtime.history import HeadMove
from lash_cli.runtime.observing import ObservedGap
from lash_cli.store.base import RuntimePersistence, SessionRow
from lash_cli.views.chat_picture import Block


class Desk(Protocol):
    """The command line behind a chat."""

    def status(self, row: SessionRow, now_ms: int) -> str:
        """The status word of a session: running, stuck, closed, queued, parked or idle."""
        ...

    def holder(self, row: SessionRow) -> str | None:
        """Who holds the lane or left it behind; None for a free one."""
        ...

    async def cost(self, store: RuntimePersistence, session_id: str) -> str | None:
        """What the session cost so far, None where a price is not known."""
        ...

    def verb(self, words: Sequence[str]) -> list[str]:
        """The command that runs a shell verb on the home, database and profile of this chat."""
        ...

    def candidates(self, words: Sequence[str]) -> list[tuple[str, str]]:
        """What may stand in the place of the last of these shell words, and what it is, as `verb` would run them. Reads
        the database and the configuration, in whatever thread; what goes wrong is no candidate."""
        ...

    def cut_off_edit(self, session_id: str) -> str | None:
        """That an edit of a session's queue was cut off, and what is typed to put its texts back; None when none was.
        Raises `LashError` where that cannot be looked up."""
        ...

    def editor(self) -> list[str]:
        """The user's editor; raises `ConfigError` (`editor_missing`)."""
        ...

    def clipboard(self, text: str) -> str | None:
        """What puts `text` into the terminal's clipboard; None where that is forbidden."""
        ...

    def model(self, name: str) -> ModelSpec:
        """The model behind an alias or an id; raises `ConfigError`."""
        ...

    def system_prompt(self, text: str) -> PromptLayer:
        """The prompt layer of a system prompt given by the user, or by `@FILE`; raises `UsageError`."""
        ...

    async def last_said(self, store: RuntimePersistence, session_id: str) -> tuple[str, TurnInput]:
        """The message the last turn began with: its node, and the input that says it again, attachments included.
        Raises `ConflictError` (`nothing_to_retry`)."""
        ...

    def attachments(self, references: Sequence[str]) -> tuple[AttachmentItem, ...]:
        """What paths and addresses name, as `lash turn --attach` reads it; raises `UsageError`."""
        ...

    def undo(self, move: HeadMove) -> str:
        """The shell command that moves the head back, with the `!` it is typed with in the chat."""
        ...

    async def find(self, store: RuntimePersistence, reference: str) -> str:
        """The id of the session `reference` names; raises `NotFoundError` with the nearest, `SessionClosed`, and as
        `lash show` does."""
        ...

    def error_text(self, error: LashError) -> str:
        """An error as people read it: message and hint, safe for a terminal. A command in the hint begins with `!`, as
        it is typed in the chat."""
        ...

    def turn_error(self, result: TurnResult, provider: str) -> LashError | None:
        """What a turn at `provider` failed with, and what its person can do here; None for one that did not."""
        ...


class Recorder(Protocol):
    """Keeps what a chat observes. Methods that read the store raise `LashError` before they keep anything, and may be
    called again."""

    def begin(self, store: RuntimePersistence, row: SessionRow, cursor: SessionCursor) -> None:
        """A session is observed from `cursor` on."""
        ...

    async def event(self, event: SessionObservationEvent) -> None:
        """One event of it."""
        ...

    async def gap(self, item: ObservedGap) -> None:
        """Events of it were missed."""
        ...


class Face(Protocol):
    """Shows a chat and takes what is typed."""

    async def run(self) -> None:
        """Take input until `stop` is called or the terminal is gone (`EOFError`)."""
        ...

    def show(self, blocks: Sequence[Block]) -> None:
        """Print settled blocks above what still changes."""
        ...

    def refresh(self) -> None:
        """Something that is shown changed."""
        ...

    def set_text(self, text: str) -> None:
        """The draft became `text` by something else than typing."""
        ...

    def save_now(self) -> None:
        """Hand what was typed to the outbox."""
        ...

    def stash_changed(self, text: str) -> None:
        """`text` was put aside; the history brings it back first."""
        ...

    async def run_verb(self, command: Sequence[str], *, is_interactive: bool) -> int:
        """Run a command and show what it says; its exit status. Raises `LashRuntimeError` (`command_not_started`)."""
        ...

    async def ask(self, manifest: ToolManifest, call: ToolCall) -> str:
        """Ask about a tool call: `once`, `always`, `no`, or the reason of a refusal."""
        ...

    def withdraw(self) -> None:
        """A question that is open is answered with no."""
        ...

    def choose(self, panel: Panel) -> None:
        """Ask one of several things."""
        ...

    def offer(self, text: str) -> None:
        """Another process runs a turn: ask what becomes of `text`."""
        ...

    def stop(self) -> None:
        """End `run`."""
        ...

    def interrupt(self) -> None:
        """Ctrl-C, or SIGINT from outside; another program that has the terminal takes it for itself."""
        ...

    def suspended(self) -> None:
        """This process is about to be stopped: whoever stopped it gets the terminal."""
        ...

    def resumed(self) -> None:
        """This process goes on: others may have had the terminal meanwhile. Where none had, nothing is done."""
        ...
