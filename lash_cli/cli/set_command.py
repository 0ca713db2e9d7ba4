"""`lash set`, `lash rename`, `lash label`: what a session runs under and what it is called (contract 08 §5.1, 01 §4.6).

Policy belongs to the head: it is committed before the command returns, and
whoever holds the lane has to let go first. Names and labels belong to the
shelf and change at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import typer

from lash_cli.cli.arguments import OneSession
from lash_cli.cli.documents import Document, spelled_out
from lash_cli.cli.names import require_name
from lash_cli.cli.numbers import plain
from lash_cli.cli.output import emit_one
from lash_cli.cli.queue_access import existing_store
from lash_cli.cli.reading import named_session, read_session_row, run_async
from lash_cli.cli.running import key_values, opened_core, policy_options, writing_store
from lash_cli.core.nearest import did_you_mean
from lash_cli.core.policy import (
    NO_GENERATION,
    Generation,
    PersistedSessionConfig,
    PromptLayer,
    ReasoningDisabled,
    ReasoningEffort,
    SessionConfigPatch,
    SessionSpec,
)
from lash_cli.core.prompt import render_prompt
from lash_cli.errors import ConflictError, UsageError
from lash_cli.store.base import RuntimePersistence, SessionMeta, SessionRow
from lash_cli.system import SystemClock

POLICY_KEYS = ("model", "variant", "provider", "max_steps", "system", "temperature", "seed", "stop")
KEYS = (*POLICY_KEYS, "name")
# By key, the field of `Generation` it sets.
_DRAWN = {"temperature": "temperature", "seed": "seed", "stop": "stop_sequences"}
_NO_LIMIT = ("none", "")
# A number that anything can hold.
_MOST_DIGITS = 18
_OPEN_TIME = ("id", "parent", "cwd", "created_at")
_ELSEWHERE = {"label": "lash label SESSION K=V", "labels": "lash label SESSION K=V"}


class _Change(NamedTuple):
    """What a command changes: the policy, the effort of its model, how its answers are drawn, the name, labels (None
    removes one)."""

    spec: SessionSpec | None = None
    variant: str | None = None
    drawn: Mapping[str, Any] = {}
    name: str | None = None
    labels: Mapping[str, str | None] = {}


def set_values(
    session: OneSession,
    settings: Annotated[list[str], typer.Argument(metavar="K=V...", help="model, variant, provider, …; see above.")],
) -> int:
    """Change what a session runs under; its next turn does.

    model is an id or an alias; a provider without a model brings its default
    one. variant is the effort of the model: low or what else it has, off, or
    default. max_steps=none takes the limit away. system is TEXT or @FILE; empty
    takes it away. temperature, seed and stop say how answers are drawn; none
    leaves it to the provider. stop is TEXT that ends an answer, or several as
    '["one", "two"]'. What a provider has no word for is left out, which lash
    show --turn tells. name is what the session is called.
    """
    values = key_values(settings, "set", such_as="lash set SESSION max_steps=10")
    _require_settable(values)
    name = values.get("name")
    require_name(name)
    spec = None
    if any(key in values for key in POLICY_KEYS):
        from msgspec.structs import replace

        spec = policy_options(
            model=values.get("model"), provider=values.get("provider"), system=values.get("system") or None
        )
        if "max_steps" in values:
            spec = replace(spec, max_turns=_max_steps(values["max_steps"]))
        if values.get("system") == "":
            spec = replace(spec, prompt=PromptLayer())
    return _apply(session, _Change(spec, _variant(values), _drawn(values), name))


def rename(
    session: OneSession,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new name.")],
) -> int:
    """Give a session another name; its id stays."""
    require_name(name)
    return _apply(session, _Change(name=name))


def label(
    session: OneSession,
    labels: Annotated[list[str], typer.Argument(metavar="K=V|K-...", help="Set K to V; K- takes K away.")],
) -> int:
    """Set labels of a session, or take them away. lash ls --label finds them."""
    return _apply(session, _Change(labels=_labels(labels)))


def _labels(texts: list[str]) -> dict[str, str | None]:
    changes: dict[str, str | None] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            key, value = (text[:-1], "") if text.endswith("-") else ("", "")
        if not key or not key.isprintable():
            raise UsageError(
                f"a label is KEY=VALUE, or KEY- to take it away, got {text!r}", hint="for example: area=billing old-"
            )
        changes[key] = value if equals else None
    return changes


def _require_settable(values: Mapping[str, str]) -> None:
    for key in values:
        if key in KEYS:
            continue
        if key in _OPEN_TIME:
            raise UsageError(
                f"{key} is decided when a session is opened and never changes",
                hint=f"these can be set: {', '.join(KEYS)}",
                details={"key": key},
            )
        hint, _ = did_you_mean(key, KEYS, f"these can be set: {', '.join(KEYS)}")
        raise UsageError(f"there is no setting {key!r}", hint=_ELSEWHERE.get(key, hint), details={"key": key})


def _variant(values: Mapping[str, str]) -> str | None:
    text = values.get("variant")
    if text is not None and (not text or not text.isprintable() or any(map(str.isspace, text))):
        raise UsageError(f"variant is an effort such as low, or off or default, got {text!r}")
    return text


def _drawn(values: Mapping[str, str]) -> dict[str, Any]:
    """The fields of `Generation` that are changed, None for one that is taken away."""
    fields: dict[str, Any] = {}
    for key, field in _DRAWN.items():
        if key in values:
            text = values[key]
            fields[field] = None if text in _NO_LIMIT else _drawn_value(key, text)
    _require_drawable(NO_GENERATION, fields)
    return fields


def _drawn_value(key: str, text: str) -> Any:
    try:
        match key:
            case "temperature":
                return float(plain(text))
            case "seed":
                return int(plain(text))
    except ValueError:
        raise UsageError(f"{key} is a number, or none, got {text!r}") from None
    if not text.startswith("["):
        return (text,)
    from lash_cli.settings.schema import Option, parse_text

    try:
        return tuple(parse_text(Option("list"), text)) or None
    except ValueError as error:
        raise UsageError(f"{key} is TEXT or a list of texts: {error}", hint="for example: stop='[\"END\"]'") from error


def _require_drawable(before: Generation, fields: Mapping[str, Any]) -> Generation:
    from msgspec.structs import replace

    try:
        return replace(before, **fields)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _max_steps(text: str) -> int | None:
    if text in _NO_LIMIT:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS) or int(text) < 1:
        raise UsageError(f"max_steps is a whole number of at least 1, or none, got {text!r}")
    return int(text)


def _apply(reference: str, change: _Change) -> int:
    document = run_async(_run(reference, change))
    changed = document["changed"]
    what = ", ".join(changed) if changed else "nothing"
    emit_one("SessionSettings", document, text=f"{document['name']} ({document['id']}): changed {what}")
    return 0


async def _run(reference: str, change: _Change) -> Document:
    async with named_session(existing_store(), reference) as (store, before):
        await _require_free(store, before.meta, change.name)
        meta = before.meta
        # Policy first: it is what can be refused, because somebody works in the session.
        if change.spec is not None:
            await _configure(meta.session_id, change.spec, change)
        if change.name is not None or change.labels:
            await store.change_meta(
                meta.session_id, name=change.name, labels=change.labels, now_ms=SystemClock().now_ms()
            )
        after = await read_session_row(store, meta.session_id)
    return _document(before, after)


async def _require_free(store: RuntimePersistence, meta: SessionMeta, name: str | None) -> None:
    if name is None or name == meta.name:
        return
    if any(name in (found.name, found.session_id) and found != meta for found in await store.find_sessions(name)):
        raise ConflictError(
            f"the name {name!r} belongs to another session",
            code="session_name_taken",
            hint="choose another name, or see who has it: lash ls",
        )


async def _configure(session_id: str, spec: SessionSpec, change: _Change) -> None:
    from msgspec import UNSET

    from lash_cli.wiring import with_variant

    async with opened_core(store=writing_store(), owner_label="set") as core:
        stored = SessionSpec(inherit="stored")
        async with await core.open_session(session_id, spec=stored, create=False) as session:
            model, before = spec.model, session.policy_snapshot
            if change.variant is not None:
                model = with_variant(before.model if model is UNSET else model, change.variant)
            await session.configure(
                SessionConfigPatch(
                    provider_id=spec.provider_id,
                    model=model,
                    max_turns=spec.max_turns,
                    prompt=spec.prompt,
                    generation=_require_drawable(before.generation, change.drawn) if change.drawn else UNSET,
                )
            )


def _document(before: SessionRow, after: SessionRow) -> Document:
    old, new = _settings(before), _settings(after)
    return {"id": after.meta.session_id, **new, "changed": [key for key in new if new[key] != old[key]]}


def _settings(row: SessionRow) -> Document:
    config: PersistedSessionConfig = row.config
    return {
        "name": row.meta.name,
        "labels": dict(row.meta.labels),
        "provider": config.provider_id,
        "model": config.model.id,
        "variant": _variant_word(config),
        "max_steps": config.max_turns,
        "system": render_prompt((config.prompt,)) or None if config.prompt is not None else None,
        **{key: spelled_out(getattr(config.generation, field)) for key, field in _DRAWN.items()},
    }


def _variant_word(config: PersistedSessionConfig) -> str | None:
    """The effort its model was set to, `off`, or None for what the provider does by itself."""
    selection = config.model.variant
    if isinstance(selection, ReasoningEffort):
        return selection.effort
    return "off" if isinstance(selection, ReasoningDisabled) else None
