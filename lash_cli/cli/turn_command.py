"""`lash turn`: one turn now (contract 08 §5.1).

Everything that can be wrong with the call is found before anything is written;
then the session is looked up, the text is made safe and the turn runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import typer

from lash_cli.cli.arguments import Attachments, Heartbeat, IfBusyText, Key, Prompt, Raw, SessionArgument
from lash_cli.cli.durations import FOREVER_MS, duration_ms, heartbeat_seconds
from lash_cli.cli.invocation import current
from lash_cli.cli.names import require_id
from lash_cli.cli.numbers import plain
from lash_cli.cli.out_files import STDOUT_MARK, check_writable, named_file, require_foreign, require_name
from lash_cli.cli.output import say, warn
from lash_cli.cli.reading import read_session_row, reading_store, run_async, run_inline
from lash_cli.cli.running import (
    open_to_work,
    opened_core,
    policy_of_new_session,
    policy_options,
    store_and_session,
    working_directory,
)
from lash_cli.cli.stdin import STDIN_MARK, read_prompt, stdin_takers
from lash_cli.core.content import AttachmentItem, InputItem, TextItem, TurnInput
from lash_cli.errors import ConfigError, UsageError
from lash_cli.paths import current_directory

if TYPE_CHECKING:
    from lash_cli.api import LashCore, LashSession, TurnBuilder
    from lash_cli.cli.asking import TerminalAsker
    from lash_cli.cli.documents import Document
    from lash_cli.cli.turn_run import Showing
    from lash_cli.core.llm import OutputSpec
    from lash_cli.core.policy import SessionSpec
    from lash_cli.core.pricing import CostLimit

APPROVAL_CLASSES = ("read", "write", "execute", "network")
APPROVAL_MODES = ("ask", "auto", "never")
_LARGEST_MICROS = 10**15


class IfBusy(NamedTuple):
    """What a turn does while somebody else works on its session: waits so long, then fails or is queued."""

    wait_ms: int = 0
    enqueues: bool = False


FAIL_IF_BUSY = IfBusy()


class TurnPlan(msgspec.Struct, frozen=True):
    """A validated `lash turn`."""

    reference: str | None
    items: tuple[InputItem, ...]
    showing: Showing
    key: str | None = None
    turn_id: str | None = None
    max_steps: int | None = None
    max_cost_micros: int | None = None
    timeout_ms: int | None = None
    if_busy: IfBusy = FAIL_IF_BUSY
    or_open: bool = False
    model: str | None = None
    provider: str | None = None
    system: str | None = None
    approve: tuple[tuple[str, str], ...] = ()
    trace_file: str | None = None
    output: OutputSpec | None = None
    is_retry: bool = False
    is_fed: bool = False

    @property
    def content(self) -> TurnInput:
        """What is submitted, and what it is to be answered with."""
        if self.output is None:
            return TurnInput(items=self.items)
        from lash_cli.core.structured import with_output

        return TurnInput(items=self.items, protocol_turn_options=with_output(None, self.output))

    @property
    def own_options(self) -> list[str]:
        """The options that change how this one turn runs, and that a text in a queue cannot carry."""
        options = {
            "--turn-id": self.turn_id,
            "--max-steps": self.max_steps,
            "--max-cost": self.max_cost_micros,
            "--timeout": self.timeout_ms,
            "--model": self.model,
            "--provider": self.provider,
            "--system": self.system,
            "--approve": self.approve or None,
        }
        return [name for name, value in options.items() if value is not None]


def command(
    session: SessionArgument = None,
    prompt: Prompt = None,
    key: Key = None,
    turn_id: Annotated[str | None, typer.Option(metavar="ID", help="The id the turn gets.")] = None,
    attach: Attachments = None,
    edit: Annotated[bool, typer.Option("--edit", "-e", help="Write the text in an editor first.")] = False,
    schema: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Answer with JSON that fits this JSON Schema.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, metavar="N", help="Most model calls of the turn.")] = None,
    max_cost: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="No more model calls once they cost this, such as 0.50.")
    ] = None,
    timeout: Annotated[str | None, typer.Option(metavar="DUR", help="Cancel it after this long (exit 124).")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run the last turn's text again, beside its answer.")] = False,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Without a session; nothing is kept.")] = False,
    or_open: Annotated[bool, typer.Option("--or-open", help="Create the session if there is none.")] = False,
    if_busy: IfBusyText = None,
    model: Annotated[str | None, typer.Option(help="The model from this turn on.")] = None,
    provider: Annotated[str | None, typer.Option(help="The provider from this turn on.")] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT|@FILE", help="System prompt from now on.")] = None,
    approve: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS=MODE", help="read, write, execute or network = ask, auto or never."),
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write the answer there instead of stdout.")] = None,
    usage_file: Annotated[str | None, typer.Option(metavar="FILE", help="Write the tokens it cost there.")] = None,
    trace: Annotated[str | None, typer.Option(metavar="FILE", help="Append what the turn does to this trace.")] = None,
    source: Annotated[
        str | None, typer.Option("--input", metavar="jsonl", help="With -o jsonl: a turn for each line of stdin.")
    ] = None,
    heartbeat: Heartbeat = None,
    raw: Raw = False,
) -> int:
    """Run one turn now and stream the answer.

    The answer goes to stdout, tools and retries to stderr. Exit status 0 means
    the turn finished; 6 that it stopped, 7 that somebody cancelled it, 75 that
    the session or the provider is busy and a repeat is safe. With --schema the
    answer is one JSON value on stdout; one that does not fit is given back to
    the model once, and the second stops the turn. With --if-busy enqueue the
    text of a busy session waits for its next turn instead, and the receipt is
    printed. With --retry the head goes back to before the last turn and its
    text is run again; the old answer is kept as a branch, and the command that
    returns to it is printed. --input jsonl runs a turn for each line of stdin,
    {"text": …, "key": …, "attachments": […]}, and ends with the first that
    does not finish. --max-cost is in the currency of the model's price
    and looked at before each model call but the first.
    """
    from lash_cli.cli.turn_run import Showing

    if out is not None:
        require_name(out, "--out")
    if out == STDOUT_MARK:
        out = None
    for option, file in (("--usage-file", usage_file), ("--trace", trace)):
        if file is not None:
            named_file(file, option)
    stdin_is_taken = stdin_takers(attach or (), (schema,) if schema is not None else ())
    reference, text = _positionals(session, prompt, ephemeral)
    if retry:
        given = {"PROMPT": text, "--attach": attach, "--key": key, "--if-busy": if_busy, "--edit": edit or None}
        _check_retry({**given, "--or-open": or_open or None, "--ephemeral": ephemeral or None})
    if edit:
        _check_edit(text)
    if source is not None:
        from lash_cli.cli.turn_feed import check_input

        own = {"PROMPT": text, "--key": key, "--turn-id": turn_id, "--attach": attach, "--out": out}
        once = {"--usage-file": usage_file, "--retry": retry or None, "--edit": edit or None}
        check_input(source, {**own, **once, "--schema -": schema if stdin_is_taken else None})
    brings_text = retry or edit or source is not None
    if turn_id is not None:
        require_id(turn_id, "turn id")
    for path in (out, usage_file):
        if path is not None:
            check_writable(path, "nothing was sent")
    if trace:
        require_foreign(trace, "nothing was sent")
    plan = TurnPlan(
        reference=reference,
        showing=Showing(
            out=out,
            usage_file=usage_file,
            raw=raw,
            timeout_text=timeout,
            is_ephemeral=ephemeral,
            is_value=schema is not None,
            heartbeat_seconds=heartbeat_seconds(heartbeat, is_stream=current().output.is_stream),
        ),
        key=key,
        turn_id=turn_id,
        max_steps=max_steps,
        max_cost_micros=_amount(max_cost) if max_cost is not None else None,
        timeout_ms=duration_ms(timeout) if timeout is not None else None,
        if_busy=busy_policy(if_busy),
        or_open=or_open,
        model=model,
        provider=provider,
        system=system,
        approve=tuple(approvals(approve).items()),
        trace_file=trace,
        output=_schema(schema),
        items=() if brings_text else (*read_prompt(text, stdin_is_taken=stdin_is_taken), *_attachments(attach)),
        is_retry=retry,
        is_fed=source is not None,
    )
    run = _run_ephemeral if ephemeral else _run_stored
    if not edit:
        return run_async(run(plan))
    from lash_cli.cli.written import written_text

    attached = _attachments(attach)
    if not ephemeral and not or_open:
        plan = msgspec.structs.replace(plan, reference=run_inline(lambda: _known_session(reference)))
    with written_text(text or "", "nothing was sent") as written:
        return run_async(run(msgspec.structs.replace(plan, items=(TextItem(written), *attached))))


def _check_edit(text: str | None) -> None:
    if text == STDIN_MARK:
        raise UsageError("--edit and - contradict each other", hint="give the text to begin with, or none")
    if not current().can_ask:
        raise UsageError(
            "an editor needs a terminal", code="not_a_tty", hint="without one, give PROMPT; nothing was sent"
        )


async def _known_session(reference: str | None) -> str:
    """The id of the session, looked up before somebody writes a text for it."""
    async with reading_store() as store:
        return (await read_session_row(store, reference)).meta.session_id


def _amount(text: str) -> int:
    """Micro-units of `--max-cost`; raises `UsageError` for what is no amount of money above 0."""
    from lash_cli.providers.models import micros

    try:
        amount = micros(plain(text))
    except (OverflowError, ValueError):
        amount = 0
    if not 1 <= amount <= _LARGEST_MICROS:
        raise UsageError(f"--max-cost is an amount of money above 0, such as 0.50, not {text!r}")
    return amount


def _check_retry(contradicting: dict[str, object]) -> None:
    given = [name for name, value in contradicting.items() if value is not None]
    if given:
        raise UsageError(
            f"--retry says the last text again; it does not go with {', '.join(given)}",
            hint="to say something else there: lash rewind SESSION --to NODE --edit",
        )


def _schema(path: str | None) -> OutputSpec | None:
    if path is None:
        return None
    from lash_cli.cli.answer_schema import read_schema

    return read_schema(path)


def _attachments(references: list[str] | None) -> tuple[AttachmentItem, ...]:
    if not references:
        return ()
    from lash_cli.cli.attaching import read_attachments

    return read_attachments(references)


def _positionals(session: str | None, prompt: str | None, is_ephemeral: bool) -> tuple[str | None, str | None]:
    """The session reference and the prompt argument; an ephemeral turn names no session."""
    if not is_ephemeral:
        return session, prompt
    if prompt is not None:
        raise UsageError("an ephemeral turn has no session", hint="lash turn --ephemeral PROMPT")
    return None, session


def busy_policy(how: str | None) -> IfBusy:
    """What `--if-busy HOW` means, without it `defaults.if_busy`; raises `UsageError` for what it cannot be."""
    if how is None:
        how = current().settings.if_busy
    if how == "fail":
        return FAIL_IF_BUSY
    if how == "enqueue":
        return IfBusy(enqueues=True)
    if how == "wait":
        return IfBusy(FOREVER_MS)
    if how.startswith("wait="):
        return IfBusy(duration_ms(how.removeprefix("wait=")))
    raise UsageError(
        f"--if-busy cannot be {how!r}", hint="there are: fail, wait, wait=DUR (for example wait=30s), enqueue"
    )


def approvals(texts: list[str] | None) -> dict[str, str]:
    """The modes of `--approve CLASS=MODE` options; raises `UsageError` for an unknown class or mode."""
    modes: dict[str, str] = {}
    for text in texts or ():
        name, _, mode = text.partition("=")
        if name not in APPROVAL_CLASSES or mode not in APPROVAL_MODES:
            raise UsageError(
                f"--approve cannot be {text!r}",
                hint=f"CLASS=MODE with {', '.join(APPROVAL_CLASSES)} = {', '.join(APPROVAL_MODES)}",
            )
        modes[name] = mode
    return modes


async def _run_ephemeral(plan: TurnPlan) -> int:
    from lash_cli.system import SystemIds

    asker = terminal_asker()
    async with opened_core(
        is_ephemeral=True,
        cwd=current_directory(),
        provider=plan.provider,
        model=plan.model,
        needs_model=True,
        approve=dict(plan.approve),
        asker=asker,
        trace_file=plan.trace_file,
    ) as core:
        spec = policy_options(model=None, provider=None, system=plan.system)
        session = await core.open_session(SystemIds().new("s"), spec=spec, name="ephemeral")
        return await run_planned_turn(core, session, plan, asker)


async def _run_stored(plan: TurnPlan) -> int:
    def check_new() -> None:
        policy = policy_of_new_session(provider=plan.provider, model=plan.model)
        _cost_limit(plan.max_cost_micros, policy.model.id)

    spec = policy_options(model=plan.model, provider=plan.provider, system=plan.system)
    store, meta = await store_and_session(plan.reference, or_open=plan.or_open, before_creating=check_new)
    asker = terminal_asker()
    async with opened_core(
        store=store,
        provider=plan.provider,
        model=plan.model,
        needs_model=meta is None,
        cwd=working_directory(meta),
        approve=dict(plan.approve),
        asker=asker,
        trace_file=plan.trace_file,
    ) as core:
        if plan.is_retry and meta is not None:
            plan = await _said_again(core, meta.session_id, plan, spec)
        session = await open_to_work(core, meta, plan.reference or "", spec)
        if meta is None:
            say(f"opened session {session.name} ({session.session_id})")
        return await run_planned_turn(core, session, plan, asker)


async def _said_again(core: LashCore, session_id: str, plan: TurnPlan, spec: SessionSpec) -> TurnPlan:
    """The plan with the text of the last turn, and the head where that was said."""
    from lash_cli.cli.say_again import go_before, items_of, last_said

    # Whatever stands against the turn is found before anything moves.
    message = await last_said(core.store, session_id)
    await go_before(core, session_id, message.id, spec)
    return msgspec.structs.replace(plan, items=items_of(message))


def terminal_asker() -> TerminalAsker | None:
    """Somebody to ask about tool calls, if there is a terminal for it."""
    if not current().can_ask:
        return None
    from lash_cli.cli.asking import TerminalAsker

    return TerminalAsker()


def _cost_limit(micros: int | None, model: str) -> CostLimit | None:
    """The limit of `--max-cost` for a turn that asks `model`; raises `ConfigError` (`price_unknown`) where it could not
    be kept."""
    if micros is None:
        return None
    from lash_cli.core.pricing import CostLimit
    from lash_cli.wiring import known_model

    prices = known_model(current().settings, model).prices
    if prices is None or prices.buckets.input is None or prices.buckets.output is None:
        raise ConfigError(
            f"--max-cost needs the prices of model {model!r}, which are not known",
            code="price_unknown",
            hint="give what a million tokens cost in [models.NAME] of config.toml: lash help providers",
        )
    return CostLimit(micros, prices)


async def run_planned_turn(core: LashCore, session: LashSession, plan: TurnPlan, asker: TerminalAsker | None) -> int:
    """Run the turn of `plan` in an opened session, or queue its text when that is what the plan says for a busy one;
    returns the exit status or raises the turn's error."""
    from lash_cli.cli.turn_run import TurnRun

    if plan.is_fed:
        from lash_cli.cli.turn_feed import run_fed_turns

        try:
            return await run_fed_turns(core, session, plan, lambda one: _builder(session, one))
        finally:
            session.close_handle()

    async def enqueue() -> Document:
        from lash_cli.cli.enqueueing import enqueue_instead

        receipt = await enqueue_instead(core.store, session.session_id, plan.content, plan.key)
        if plan.own_options:
            warn(f"the text was queued without {', '.join(plan.own_options)}, which are for a turn that runs now")
        return receipt

    run = TurnRun(
        session,
        plan.showing,
        asker,
        enqueue=enqueue if plan.if_busy.enqueues else None,
        store=core.host.store,
    )
    builder = _builder(session, plan)
    try:
        return await run.drive(builder, turn_id=plan.turn_id)
    finally:
        session.close_handle()


def _builder(session: LashSession, plan: TurnPlan) -> TurnBuilder:
    return session.turn(
        plan.content,
        turn_id=plan.turn_id,
        key=plan.key,
        max_turns=plan.max_steps,
        cost_limit=_cost_limit(plan.max_cost_micros, session.policy_snapshot.model.id),
        busy_wait_ms=plan.if_busy.wait_ms,
        timeout_ms=plan.timeout_ms,
    )
