"""`lash open`: create a session, or reopen one; prints its id and runs nothing (contract 08 §5.1).

What a caller sets on an existing session is committed before the id is
printed. Starting over (`--fresh`) replaces the stored transcript, so it is
confirmed first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from lash_cli.cli.documents import bare_session_document
from lash_cli.cli.head_moves import command_here
from lash_cli.cli.invocation import current
from lash_cli.cli.names import require_id, require_name
from lash_cli.cli.output import emit_one, say
from lash_cli.cli.reading import has_database, no_session_yet, present_row, run_async
from lash_cli.cli.running import key_values, opened_core, policy_options, writing_store
from lash_cli.core.ids import is_session_id
from lash_cli.errors import ConflictError, UsageError
from lash_cli.paths import current_place
from lash_cli.store.base import RuntimePersistence, SessionRow
from lash_cli.system import SystemClock, SystemIds, is_definitely_dead

if TYPE_CHECKING:
    from lash_cli.api import LashCore
    from lash_cli.core.policy import SessionSpec


class OpenPlan(msgspec.Struct, frozen=True):
    """A validated `lash open`."""

    reference: str | None
    spec: SessionSpec
    has_changes: bool
    labels: dict[str, str]
    name: str | None = None
    parent: str | None = None
    must_be_new: bool = False
    starts_over: bool = False
    provider: str | None = None
    model: str | None = None


def command(
    session: Annotated[str | None, typer.Argument(metavar="[ID]", help="The id, or a session's name.")] = None,
    name: Annotated[str | None, typer.Option(help="The name; a readable one is made up otherwise.")] = None,
    model: Annotated[str | None, typer.Option(help="The model or an alias from the configuration.")] = None,
    provider: Annotated[str | None, typer.Option(help="The provider.")] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT|@FILE", help="The system prompt.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="K=V", help="A label; repeatable.")] = None,
    parent: Annotated[str | None, typer.Option(metavar="SESSION", help="The session it belongs to.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Fail if it exists.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over: drop the transcript of an existing one.")] = False,
) -> int:
    """Create a session, or reopen one, and print its id. No turn is run."""
    if new and fresh:
        raise UsageError("--new and --fresh contradict each other", hint="--fresh is for a session that exists")
    require_name(name)
    plan = OpenPlan(
        reference=session,
        spec=policy_options(model=model, provider=provider, system=system),
        has_changes=any(option is not None for option in (model, provider, system)),
        labels=key_values(label, "--label", such_as="--label area=billing"),
        name=name,
        parent=parent,
        must_be_new=new,
        starts_over=fresh,
        provider=provider,
        model=model,
    )
    row = run_async(_run(plan))
    document = bare_session_document(row, SystemClock().now_ms(), is_definitely_dead)
    emit_one("Session", document, text=row.meta.session_id)
    return 0


async def _run(plan: OpenPlan) -> SessionRow:
    if not has_database():
        # Then no session is there yet: what needs one is refused before a database is made.
        if plan.reference is not None:
            require_id(plan.reference)
        if plan.parent is not None:
            raise no_session_yet(plan.parent)
        _require_model(plan)
    store = writing_store()
    try:
        existing = await _existing(store, plan.reference)
        parent = await _parent_id(store, plan.parent)
        if existing is not None:
            _check_reopening(plan, existing, parent)
    except BaseException:
        await store.aclose()
        raise
    async with opened_core(
        store=store, provider=plan.provider, model=plan.model, needs_model=existing is None, owner_label="open"
    ) as core:
        if existing is None:
            session_id = await _create(core, plan, parent)
        else:
            session_id = existing.meta.session_id
            await _reopen(core, plan, existing)
        return await present_row(core.store, session_id)


def _require_model(plan: OpenPlan) -> None:
    from lash_cli.wiring import host_policy

    host_policy(current().settings, current().environment, provider=plan.provider, model=plan.model, needs_model=True)


async def _existing(store: RuntimePersistence, reference: str | None) -> SessionRow | None:
    """The session of exactly that id or name. Raises `UsageError` when a new one could not have that id."""
    if reference is None:
        return None
    row = await store.session_row(reference) if is_session_id(reference) else None
    if row is not None:
        return row
    for meta in await store.find_sessions(reference):
        if meta.name == reference:
            return await store.session_row(meta.session_id)
    require_id(reference)
    return None


async def _parent_id(store: RuntimePersistence, reference: str | None) -> str | None:
    if reference is None:
        return None
    from lash_cli.cli.references import resolve_session

    return (await resolve_session(store, reference)).session_id


def _check_reopening(plan: OpenPlan, existing: SessionRow, parent: str | None) -> None:
    """Raise what stands against reopening: `session_exists`, or a confirmation that is missing."""
    meta = existing.meta
    if plan.must_be_new:
        raise ConflictError(
            f"session {meta.session_id!r} ({meta.name}) exists",
            code="session_exists",
            hint=f"leave out --new to reopen it, or look at it with: lash show {meta.session_id}",
            details={"session": meta.session_id, "name": meta.name},
        )
    differs = (
        (plan.name is not None and plan.name != meta.name)
        or (parent is not None and parent != meta.parent_session_id)
        or any(meta.labels.get(key) != value for key, value in plan.labels.items())
    )
    if differs:
        raise ConflictError(
            f"session {meta.session_id!r} exists with another name, parent or label",
            code="session_exists",
            hint="--name, --parent and --label are for a new session",
            details={"session": meta.session_id, "name": meta.name},
        )
    if plan.starts_over and existing.head_revision is not None:
        from lash_cli.cli.asking import confirm

        export = command_here("export", meta.session_id, "--as", "json", "--out", f"{meta.name}.json")
        say(f"what it holds can be saved first: {export}")
        confirm(f"start over in {meta.name} ({meta.session_id}) and drop {existing.turn_state.turn_index} turns?")


async def _create(core: LashCore, plan: OpenPlan, parent: str | None) -> str:
    session = await core.open_session(
        plan.reference or SystemIds().new("s"),
        spec=plan.spec,
        name=plan.name,
        cwd=current_place(),
        parent=parent,
        labels={**current().settings.labels, **plan.labels},
        must_be_new=plan.must_be_new,
    )
    say(f"created session {session.name}")
    session_id: str = session.session_id
    return session_id


async def _reopen(core: LashCore, plan: OpenPlan, existing: SessionRow) -> None:
    from lash_cli.core.policy import SessionConfigPatch, SessionSpec

    meta = existing.meta
    spec = plan.spec
    if plan.starts_over:
        config = spec.resolve_against(core.policy, existing.config)
        whole = SessionSpec(
            inherit="stored",
            provider_id=config.provider_id,
            model=config.model,
            max_turns=config.max_turns,
            prompt=config.prompt,
            generation=config.generation,
        )
        async with await core.open_session(meta.session_id, spec=whole, mode="fresh", create=False) as session:
            await session.flush()
    elif plan.has_changes:
        async with await core.open_session(
            meta.session_id, spec=SessionSpec(inherit="stored"), create=False
        ) as session:
            await session.configure(
                SessionConfigPatch(provider_id=spec.provider_id, model=spec.model, prompt=spec.prompt)
            )
    if meta.closed_at_ms is not None or meta.parked_at_ms is not None:
        await core.store.set_session_flags(meta.session_id, closed_at_ms=None, parked_at_ms=None)
    say(f"reopened session {meta.name}")
