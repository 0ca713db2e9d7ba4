"""From an invocation to an opened core and the session a verb acts on (design §3 step 1).

The store is opened first and the session looked up in it, because a session
brings its own directory: its tools work there, wherever the command was given.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from lash_cli.cli.invocation import current
from lash_cli.cli.reading import has_database, no_session_yet, opening_told
from lash_cli.errors import ConfigError, NotFoundError, UsageError
from lash_cli.paths import current_directory, current_directory_or_root, current_place, regular_or_given
from lash_cli.store.base import RuntimePersistence, SessionMeta

if TYPE_CHECKING:
    from lash_cli.api import LashCore, LashSession
    from lash_cli.core.policy import ModelSpec, SessionPolicy, SessionSpec
    from lash_cli.tools.approval import Asker

FILE_MARK = "@"
DIRECTORY_GONE = "session_directory_gone"
# Where somebody may be asked for a key each time it is fetched.
_ASKING_SOURCES = ("cmd:", "keyring:")


@asynccontextmanager
async def opened_core(
    *,
    store: RuntimePersistence | None = None,
    is_ephemeral: bool = False,
    provider: str | None = None,
    model: str | None = None,
    needs_model: bool = False,
    cwd: str | None = None,
    approve: Mapping[str, str] | None = None,
    asker: Asker | None = None,
    owner_label: str = "turn",
    trace_file: str | None = None,
) -> AsyncIterator[LashCore]:
    """A core over this invocation's settings; it and `store` are closed at the end.

    `cwd` is where its tools work: here for a verb that names no place because it runs none of them. A trace that lost
    records says so on stderr. Raises what `wiring.open_core` raises.
    """
    from lash_cli.cli.logs import log_prompts
    from lash_cli.wiring import open_core

    invocation = current()
    log_prompts()
    try:
        core = open_core(
            invocation.settings,
            invocation.paths,
            environment=invocation.environment,
            store=store,
            is_ephemeral=is_ephemeral,
            provider=provider,
            model=model,
            needs_model=needs_model,
            cwd=current_directory_or_root() if cwd is None else cwd,
            approve=approve,
            asker=asker,
            owner_label=owner_label,
            trace_file=trace_file,
            fetched_keys=invocation.take_fetched_keys(),
        )
    except BaseException:
        if store is not None:
            await store.aclose()
        raise
    try:
        async with core:
            yield core
    finally:
        tracer = core.host.tracer
        if tracer is not None and tracer.lost:
            from lash_cli.cli.output import warn

            warn(f"the trace is incomplete: {tracer.lost} records were lost; see {invocation.paths.log_file}")


@asynccontextmanager
async def opened_at(reference: str | None, owner_label: str) -> AsyncIterator[tuple[LashCore, SessionMeta]]:
    """The session `reference` names, and a core whose tools work where that does.

    Where there is no database none is made. Raises as `opened_core` and `resolve_session`.
    """
    from lash_cli.cli.references import resolve_session

    store = store_having(reference)
    try:
        meta = await resolve_session(store, reference)
    except BaseException:
        await store.aclose()
        raise
    async with opened_core(store=store, cwd=own_directory(meta), owner_label=owner_label) as core:
        yield core, meta


def writing_store() -> RuntimePersistence:
    """The store opened for writing, created when missing; the caller closes it or hands it to a core.

    One that others can read is worth a warning each time something is put into it.
    """
    from lash_cli.paths import shared_bits
    from lash_cli.wiring import open_store

    invocation = current()
    with opening_told():
        store = open_store(invocation.paths, synchronous=invocation.settings.synchronous)
    if shared_bits(invocation.paths.database):
        from lash_cli.cli.output import warn_once

        warn_once(
            f"others can read {invocation.paths.database}; make it private with: lash doctor --fix",
            "permissions_unsafe",
        )
    return store


def store_having(reference: str | None) -> RuntimePersistence:
    """`writing_store` for a verb that needs the session `reference` names: where there is no database it is not found,
    and none is made. Raises `no_session_yet`."""
    if not has_database():
        raise no_session_yet(reference)
    return writing_store()


async def store_and_session(
    reference: str | None, *, or_open: bool = False, before_creating: Callable[[], None] | None = None
) -> tuple[RuntimePersistence, SessionMeta | None]:
    """`writing_store`, and the session `reference` names in it; None means that it is to be created, which only
    `or_open` allows. Where there is no database, none is made before that is known.

    `before_creating` raises what else stands against a new session. Raises that, as `resolve_session`, and `UsageError`
    for what cannot be the id of a new session.
    """
    known = writing_store() if has_database() else None
    try:
        meta = await _session_or_new(known, reference, or_open=or_open)
        if meta is None and before_creating is not None:
            before_creating()
    except BaseException:
        if known is not None:
            await known.aclose()
        raise
    return known or writing_store(), meta


def policy_of_new_session(*, provider: str | None = None, model: str | None = None) -> SessionPolicy:
    """The policy a new session would start from, with nothing written.

    Raises what stands against it: no model, or a provider that cannot be used.
    A key that a command or a keyring gave is kept for `opened_core`, since
    either may ask somebody for it.
    """
    from lash_cli.settings.keys import fetch_key
    from lash_cli.settings.providers import available_provider
    from lash_cli.system import SystemClock, SystemIds
    from lash_cli.wiring import build_provider, host_policy

    invocation = current()
    settings, environment = invocation.settings, invocation.environment
    policy = host_policy(settings, environment, provider=provider, model=model, needs_model=True)
    chosen = available_provider(settings, environment, policy.provider_id)
    if chosen.key is not None and chosen.key.startswith(_ASKING_SOURCES):
        wanted_by = f"provider {chosen.name}"
        invocation.fetched_keys[chosen.key] = fetch_key(chosen.key, invocation.paths, environment, wanted_by=wanted_by)
    build_provider(
        chosen,
        invocation.paths,
        environment,
        clock=SystemClock(),
        ids=SystemIds(),
        fetched_keys=invocation.fetched_keys,
    )
    return policy


async def _session_or_new(
    store: RuntimePersistence | None, reference: str | None, *, or_open: bool
) -> SessionMeta | None:
    from lash_cli.cli.references import resolve_session

    try:
        if store is None:
            raise no_session_yet(reference)
        return await resolve_session(store, reference)
    except NotFoundError as error:
        is_unknown = error.code == NotFoundError.default_code
        if not or_open or not is_unknown or reference is None or reference.startswith("@"):
            raise
        from lash_cli.cli.names import require_id

        require_id(reference)
        return None


async def open_to_work(core: LashCore, meta: SessionMeta | None, new_id: str, spec: SessionSpec) -> LashSession:
    """Open the session of `meta`, which is parked no more; without one create `new_id` here, with the usual labels.

    Raises as `LashCore.open_session`; a provider that cannot be used leaves no empty session behind.
    """
    if meta is not None:
        if meta.parked_at_ms is not None and meta.closed_at_ms is None:
            await core.store.set_session_flags(meta.session_id, closed_at_ms=None, parked_at_ms=None)
        return await core.open_session(meta.session_id, spec=spec, create=False)
    core.host.providers.resolve(spec.resolve_against(core.policy).provider_id)
    labels = current().settings.labels or None
    return await core.open_session(new_id, spec=spec, cwd=current_place(), labels=labels)


def own_directory(meta: SessionMeta | None) -> str | None:
    """The directory of a session, None if it has none that exists."""
    return meta.cwd if meta is not None and meta.cwd is not None and os.path.isdir(meta.cwd) else None


def working_directory(meta: SessionMeta | None) -> str:
    """Where the session's tools work: its own directory while that exists, else this one, which is said on stderr."""
    own = own_directory(meta)
    if own is not None:
        return own
    here = current_directory()
    if meta is not None and meta.cwd is not None:
        from lash_cli.cli.output import warn_once

        warn_once(f"{directory_gone(meta)}; its tools work in {here}", DIRECTORY_GONE)
    return here


def directory_gone(meta: SessionMeta) -> str:
    """What is said of a session whose own directory is not there."""
    return f"the directory of session {meta.name}, {meta.cwd}, is not there"


def policy_options(*, model: str | None, provider: str | None, system: str | None) -> SessionSpec:
    """What the options of a command change about a session's stored policy.

    A provider named without a model brings its own default model. Raises as
    `named_model`, `ConfigError` (`provider_unconfigured`) and `UsageError` for a
    system file that cannot be read.
    """
    from msgspec import UNSET

    from lash_cli.core.policy import SessionSpec, session_prompt
    from lash_cli.settings.providers import default_model, require_provider
    from lash_cli.wiring import model_spec

    invocation = current()
    settings, environment = invocation.settings, invocation.environment
    if model is not None:
        named_model(model)
    if provider is not None:
        require_provider(settings, environment, provider)
        model = model or default_model(settings, environment, provider)
        if model is None:
            raise UsageError(f"provider {provider!r} has no default model", hint="give --model ID as well")
    return SessionSpec(
        inherit="stored",
        provider_id=UNSET if provider is None else provider,
        model=UNSET if model is None else model_spec(settings, model),
        prompt=UNSET if system is None else session_prompt(system_text(system)),
    )


def named_model(name: str) -> ModelSpec:
    """The model that an argument names. Raises `ConfigError` for an alias that cannot be used, and `UsageError` for
    what is neither an alias nor the id of any model."""
    from lash_cli.wiring import model_spec

    settings = current().settings
    try:
        return model_spec(settings, name)
    except ConfigError as error:
        if settings.model(name) is not None:
            raise
        raise UsageError(error.message, hint="see which ones are known: lash model ls") from error


def system_text(option: str) -> str:
    """The text of `--system TEXT|@FILE`; raises `UsageError` for a file that cannot be read."""
    if not option.startswith(FILE_MARK):
        return option
    path = option[len(FILE_MARK) :]
    try:
        with open(path, encoding="utf-8", opener=regular_or_given) as file:
            return file.read().strip()
    except OSError as error:
        hint = "a system prompt that begins with @ names a file"
        raise UsageError(f"cannot read the system prompt {path}: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        hint = "convert it first, for example with iconv"
        raise UsageError(f"{path} is not valid UTF-8 at byte {error.start}", hint=hint) from error


def key_values(texts: list[str] | None, option: str, *, such_as: str) -> dict[str, str]:
    """`K=V` options as a dictionary; raises `UsageError` for one without a key or without `=`."""
    pairs: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"{option} needs KEY=VALUE, got {text!r}", hint=f"for example: {such_as}")
        pairs[key] = value
    return pairs
