"""Carrying out what is not a message: slash commands and local shell lines (contract 08 §7.2).

What a command may do now is judged before anything happens: one that needs
idle is refused with an error, and the face keeps the draft.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from lash_cli.core.content import Message, ProsePart, TextPart, TurnInput, user_message
from lash_cli.core.direct import DirectRequest
from lash_cli.core.policy import SessionConfigPatch
from lash_cli.core.prompt import render_prompt
from lash_cli.errors import ConflictError, UsageError
from lash_cli.repl import slash
from lash_cli.repl.branching import Branching
from lash_cli.repl.client import ChatClient
from lash_cli.repl.slash import SESSION, Call, Command, Shell
from lash_cli.repl.spawning import said_by
from lash_cli.views.safe_text import safe_text

if TYPE_CHECKING:
    from collections.abc import Sequence

# What an aside is booked to.
ASIDE = "aside"
# What may leave the queue empty.
_QUEUE_VERBS = ("queue", "cancel-suffix")
# More than anybody counts messages with.
_MOST_DIGITS = 9


class Commands:
    """The commands of one chat. `keys_text` is the table of its keys; `write` puts text on the screen as it is, and
    `attach` puts a text into the draft."""

    def __init__(
        self,
        client: ChatClient,
        *,
        keys_text: str,
        write: Callable[[str], None],
        attach: Callable[[str], None],
    ) -> None:
        self._client = client
        self._keys_text = keys_text
        self._write = write
        self._attach = attach
        self._last_shell: str | None = None
        self._branching = Branching(client)

    def run(self, line: str) -> None:
        """Begin what a line that is no message means. Raises `UsageError` for what does not exist and `ConflictError`
        (`needs_idle`) for what cannot run now; then nothing was done."""
        meaning = slash.read_line(line)
        if isinstance(meaning, Shell):
            self._shell(meaning)
        elif isinstance(meaning, Call):
            command = meaning.command
            self._require_moment(command)
            # One that only looks may have more behind it than it reads.
            if meaning.rest and not (command.any_time or command.arguments or command.verb):
                raise UsageError(f"/{command.name} takes nothing behind it")
            self._begin(meaning)
        else:
            self._client.submit(meaning.text)

    def _require_moment(self, command: Command) -> None:
        if not command.any_time and self._client.turn_standing() in ("own", "foreign"):
            raise ConflictError(
                f"/{command.name} waits until no turn runs",
                code="needs_idle",
                hint="cancel the turn with /cancel, or try again when it ended",
            )

    def _begin(self, call: Call) -> None:
        client, command, rest = self._client, call.command, call.rest
        match command.name:
            case "help":
                self._write(slash.help_text())
            case "keys":
                self._write(self._keys_text)
            case "queue":
                oldest = next((waiting.input_id for waiting in client.watch.waiting if not waiting.is_now), None)
                words, is_interactive = slash.queue_verb(rest, oldest)
                self._aside_verb(call, words, is_interactive=is_interactive)
            case "later":
                client.queue_next(_required(command, rest))
            case "back":
                client.pull_back()
            case "cancel":
                client.cancel(rest or None)
            case "note":
                client.tell(safe_text(_required(command, rest)))
            case "copy":
                self._copy(rest)
            case "exit":
                self._leave()
            case "new":
                client.stop("switched", go_to="")
            case "switch":
                client.call(self._switch(_required(command, rest)))
            case "fork":
                client.call(self._branching.fork(rest))
            case "rewind":
                client.call(self._branching.pick() if rest == "?" else self._branching.rewind(_count(rest)))
            case "retry":
                client.call(self._branching.retry())
            case "edit":
                client.call(self._branching.edit())
            case "attach":
                self._attach_file(rest)
            case "export":
                self._aside_verb(call, slash.export_verb(rest))
            case "compact":
                # What the summary is about is one argument, whatever it says.
                self._aside_verb(call, (*command.verb, *filter(None, [rest])))
            case "btw":
                client.asides.call(self._aside(_required(command, rest)), f"/btw {rest}")
            case "model":
                client.call(self._model(rest))
            case "system":
                client.call(self._system(rest))
            case "tool":
                self._tool(command, rest)
            case _:
                words = (*command.verb, *slash.words_of(rest))
                if command.name in slash.ENDING_COMMANDS and not rest.startswith("-") and rest:
                    another = f"for another: lash {command.name} SESSION"
                    raise UsageError(f"/{command.name} is about this session", hint=another)
                self._aside_verb(call, words, is_interactive=command.is_interactive)

    def _aside_verb(self, call: Call, words: Sequence[str], *, is_interactive: bool = False) -> None:
        work = self._verb(words, is_interactive=is_interactive)
        self._client.asides.call(work, f"/{call.command.name} {call.rest}".rstrip(), has_terminal=is_interactive)

    async def _verb(self, words: Sequence[str], *, is_interactive: bool) -> None:
        client = self._client
        session_id = client.watch.session_id
        named = [session_id if word == SESSION else word for word in words]
        async with client.watch.own_move():
            status = await client.face.run_verb(client.desk.verb(named), is_interactive=is_interactive)
        if status == 0 and words[0] in slash.ENDING_COMMANDS:
            client.stop("quit")
        elif words[0] in _QUEUE_VERBS:
            await client.let_go_of_empty_hold()

    def _leave(self) -> None:
        """As Ctrl-D: what becomes of a turn of this chat is asked first."""
        if self._client.turn_standing() == "own":
            self._client.ask_leave()
        else:
            self._client.stop("quit")

    async def _aside(self, question: str) -> None:
        """Ask the model beside the conversation. While a turn holds the lane the cost cannot be booked to the session
        and is only told."""
        client = self._client
        view = await client.watch.read_view()
        asked = user_message(client.core.host.ids.new("m"), TurnInput.text(question))
        request = DirectRequest((*spoken(view.messages), asked), caused_by=ASIDE)
        if client.turn_standing() == "none":
            completion = await client.session.direct_completion(request)
        else:
            policy = view.policy
            request = msgspec.structs.replace(
                request, model=policy.model, provider_id=policy.provider_id, session_id=client.watch.session_id
            )
            completion = await client.core.direct_completion(request)
        client.tell(f"aside ({completion.usage.total} tokens, not recorded): {completion.text}")

    async def _switch(self, reference: str) -> None:
        found = await self._client.desk.find(self._client.core.store, reference)
        self._client.stop("switched", go_to=found)

    async def _model(self, name: str) -> None:
        client = self._client
        if name:
            await client.session.refresh()
            await client.session.configure(SessionConfigPatch(model=client.desk.model(name)))
            await client.watch.look()
        client.tell(f"model {safe_text(client.watch.row.config.model.id)}")

    async def _system(self, text: str) -> None:
        client = self._client
        await client.session.refresh()
        if text:
            await client.session.configure(SessionConfigPatch(prompt=client.desk.system_prompt(text)))
        layer = client.session.policy_snapshot.prompt
        client.tell(safe_text(render_prompt((layer,)) or "no system prompt of its own"))

    def _tool(self, command: Command, rest: str) -> None:
        word, _, name = _required(command, rest).partition(" ")
        if word not in ("on", "off") or not name.strip():
            raise UsageError(f"/tool cannot {rest!r}", hint="for example: /tool off exec_command")
        self._client.call(self._switch_tool(name.strip(), is_on=word == "on"))

    async def _switch_tool(self, name: str, *, is_on: bool) -> None:
        await self._client.session.refresh()
        await self._client.session.tools().set_membership(name, is_on)
        self._client.tell(f"tool {safe_text(name)} is {'on' if is_on else 'off'}")

    def _attach_file(self, reference: str) -> None:
        client = self._client
        present = client.outbox.draft.attached
        if reference == "none":
            client.attach(())
        elif reference:
            is_address = reference.lower().startswith(("http://", "https://"))
            path = reference if is_address else os.path.abspath(os.path.expanduser(reference.removeprefix("@")))
            client.attach((*present, path))
        names = ", ".join(os.path.basename(name) for name in client.outbox.draft.attached)
        client.tell(f"goes with the next text: {names}" if names else "nothing goes with the next text")

    def _copy(self, rest: str) -> None:
        client = self._client
        number = _number(rest or "1")
        if not number:
            raise UsageError(f"/copy cannot take {rest!r}", hint="it takes a number: 1 is the last answer")
        answers = client.watch.answers
        if number > len(answers):
            there_are = "there is 1 answer" if len(answers) == 1 else f"there are {len(answers)} answers"
            raise UsageError(f"{there_are} to copy")
        sequence = client.desk.clipboard(answers[-number])
        if sequence is None:
            raise ConflictError("the clipboard is switched off by LASH_NO_OSC52", code="clipboard_forbidden")
        self._write(sequence)
        client.tell("copied")

    def _shell(self, shell: Shell) -> None:
        line = self._last_shell if shell.line is None else shell.line
        if not line:
            raise UsageError("there is no shell command to run", hint="for example: !ls")
        self._last_shell = line
        attaches = shell.line is None
        work = self._run_shell(line, attaches=attaches)
        self._client.asides.call(work, f"{'!!' if attaches else '!'}{line}", has_terminal=not attaches)

    async def _run_shell(self, line: str, *, attaches: bool) -> None:
        client = self._client
        command = [os.environ.get("SHELL") or "/bin/sh", "-c", line]
        if not attaches:
            status = await client.face.run_verb(command, is_interactive=True)
            if status:
                client.tell(f"ended with status {status}")
            return
        said = await said_by(command)
        self._write(said.text)
        self._attach(f"$ {line}\n{said.text}")


def spoken(messages: Iterable[Message]) -> tuple[Message, ...]:
    """What was said in words: a model without tools is not shown calls and results."""
    said = []
    for message in messages:
        parts = tuple(part for part in message.parts if isinstance(part, TextPart | ProsePart))
        if parts:
            said.append(msgspec.structs.replace(message, parts=parts))
    return tuple(said)


def _count(text: str) -> int:
    number = _number(text or "1")
    if not number:
        raise UsageError(f"/rewind cannot go back {text!r}", hint="it takes a number of your messages, or ? to choose")
    return number


def _number(text: str) -> int | None:
    """A number as it is typed; None for what is none, which digits of other scripts and raised ones are not."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def _required(command: Command, rest: str) -> str:
    if not rest:
        raise UsageError(f"/{command.name} needs {command.arguments}")
    return rest
