"""`lash model ls|show|default|alias` (contract 08 §5.4, §6.7): what is known about models, and short names for them.

Nothing here calls anybody. A model that is not in the catalogue can be used all
the same: nothing is known about it, and that is what is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lash_cli.cli.invocation import current
from lash_cli.cli.output import Document, emit_many, emit_one, say
from lash_cli.cli.provider_commands import of_arguments, say_if_overruled
from lash_cli.core.nearest import did_you_mean
from lash_cli.errors import ConfigError, ConflictError, NotFoundError, UsageError
from lash_cli.settings.providers import LOOPBACK, WELL_KNOWN, default_model, default_provider
from lash_cli.views.shell_words import shell_word

if TYPE_CHECKING:
    from lash_cli.core.pricing import Prices
    from lash_cli.providers.models import KnownModel

_COLUMNS = (
    "name",
    "model",
    "provider_kind",
    "context_window_tokens",
    "max_output_tokens",
    "prices.input",
    "prices.output",
)
_BUCKETS = ("input", "cache_read", "cache_write", "output")


def list_models() -> int:
    """List the user's aliases and the models of the shipped catalogue, with limits and prices.

    Prices are for a million tokens. Any other id may be used too, with --model
    or in an alias.
    """
    from lash_cli.providers.models import CATALOGUE
    from lash_cli.wiring import known_model

    settings = current().settings
    chosen = _default()
    aliases = settings.names("models")
    names = [*aliases, *(model_id for model_id in CATALOGUE if model_id not in aliases)]
    items = [_item(name, known_model(settings, name), is_alias=name in aliases, default=chosen) for name in names]
    emit_many("ModelList", items, columns=_COLUMNS, cells=_cells)
    return 0


def _default() -> str | None:
    """The model of a new session when nothing names one."""
    settings, environment = current().settings, current().environment
    return default_model(settings, environment, default_provider(settings, environment))


def _item(name: str, known: KnownModel, *, is_alias: bool, default: str | None) -> Document:
    reasoning = known.capability.reasoning if known.capability is not None else None
    return {
        "id": name,
        "name": name,
        "model": known.id,
        "provider_kind": known.kind,
        "alias": is_alias,
        "context_window_tokens": known.context_window_tokens,
        "max_output_tokens": known.max_output_tokens,
        "prices": _prices(known.prices),
        "efforts": list(reasoning.efforts) if reasoning is not None else [],
        "default": name == default,
    }


def _prices(prices: Prices | None) -> Document | None:
    """Micro-units of the currency for a million tokens of each bucket."""
    if prices is None:
        return None
    long = prices.long_context
    return {
        **{bucket: getattr(prices.buckets, bucket) for bucket in _BUCKETS},
        "currency": prices.currency,
        "looked_up": prices.looked_up,
        "valid_until": prices.valid_until,
        "long_context_above_tokens": prices.long_context_above_tokens,
        "long_context": None if long is None else {bucket: getattr(long, bucket) for bucket in _BUCKETS},
    }


def _cells(item: Document) -> list[str]:
    prices = item["prices"] or dict.fromkeys(("input", "output", "currency"))
    return [
        item["name"] + (" *" if item["default"] else ""),
        item["model"],
        item["provider_kind"] or "-",
        *(_count(item[field]) for field in ("context_window_tokens", "max_output_tokens")),
        *(_money(prices[bucket], prices["currency"]) for bucket in ("input", "output")),
    ]


def _count(tokens: int | None) -> str:
    return "-" if tokens is None else f"{tokens:,}".replace(",", " ")


def _money(units: int | None, currency: str | None) -> str:
    return "-" if units is None else f"{units / 1_000_000:g} {currency}"


def show(name: Annotated[str, typer.Argument(metavar="NAME", help="An alias, or the id of a model.")]) -> int:
    """Show what is known about a model, where it was read, and what the user's table changes."""
    from lash_cli.wiring import known_model, model_spec

    settings = current().settings
    entry = settings.model(name)
    known = known_model(settings, name)
    if entry is None and known.source is None:
        raise _unknown(name)
    spec = model_spec(settings, name)
    capability = known.capability
    document = {
        **_item(name, known, is_alias=entry is not None, default=_default()),
        "variant": entry.variant if entry is not None else None,
        "output_cap_tokens": spec.limits.output_token_capacity,
        "reasoning": _spelled(capability.reasoning) if capability is not None else None,
        "cache_control": capability.cache_control if capability is not None else None,
        "stream_termination": capability.stream_termination if capability is not None else None,
        "thought_signatures": capability.thought_signatures if capability is not None else None,
        "in_catalogue": known.source is not None,
        "source": known.source,
        "looked_up": known.looked_up,
        "overrides": sorted(entry.overrides) if entry is not None else [],
    }
    emit_one("Model", document, text=_text(document))
    return 0


def _spelled(record: Any) -> Any:
    from lash_cli.cli.documents import spelled_out

    return spelled_out(record)


def _unknown(name: str) -> NotFoundError:
    from lash_cli.providers.models import CATALOGUE

    known = map(shell_word, [*current().settings.names("models"), *CATALOGUE])
    own = f"it can be used all the same with --model; a short name for it: lash model alias NAME {shell_word(name)}"
    hint, _ = did_you_mean(name, known, own, before="lash model show ", most=1)
    return NotFoundError(
        f"nothing is known about a model {name!r}", code="model_not_found", hint=hint, details={"model": name}
    )


def _text(document: Document) -> str:
    from lash_cli.views.tables import pairs

    prices, reasoning = document["prices"], document["reasoning"]
    rows = [
        ("model", document["model"] + (f" (alias {document['name']})" if document["alias"] else "")),
        ("kind", document["provider_kind"] or "-"),
        ("context", _count(document["context_window_tokens"])),
        (
            "output",
            f"{_count(document['max_output_tokens'])}, asked for at most: {_count(document['output_cap_tokens'])}",
        ),
        ("variant", document["variant"] or "-"),
    ]
    if prices is not None:
        rows += [(f"price {bucket}", _money(prices[bucket], prices["currency"])) for bucket in _BUCKETS]
        if prices["long_context_above_tokens"] is not None:
            longer = prices["long_context"] or dict.fromkeys(_BUCKETS)
            rows.append((
                f"above {_count(prices['long_context_above_tokens'])}",
                ", ".join(f"{bucket} {_money(longer[bucket], prices['currency'])}" for bucket in _BUCKETS),
            ))  # fmt: skip
        if prices["valid_until"] is not None:
            rows.append(("valid until", prices["valid_until"]))
    if reasoning is not None:
        off = "always on" if reasoning["mandatory"] else reasoning["disable"] or "no known way"
        rows += [("efforts", ", ".join(reasoning["efforts"]) or "-"), ("turned off", off)]
    rows += [
        ("cache marks", document["cache_control"] or "-"),
        ("changed here", ", ".join(document["overrides"]) or "-"),
        (
            "read",
            f"{document['source']}, {document['looked_up']}" if document["in_catalogue"] else "not in the catalogue",
        ),
    ]
    return pairs(rows)


def default(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="An alias or an id; none shows it.")] = None,
) -> int:
    """Show the model of new sessions, or choose it.

    It is written to the user's configuration file. Any id may be chosen; one
    that nothing is known about is said to be so.
    """
    from lash_cli.cli.running import named_model
    from lash_cli.settings.editing import set_values
    from lash_cli.wiring import known_model

    settings, environment = current().settings, current().environment
    if name is None:
        chosen = _default()
        emit_one("ModelDefault", _default_document(chosen, None), text=chosen or "none", name=chosen or "")
        return 0
    named_model(name)
    set_values(current().paths, {"defaults.model": name})
    emit_one("ModelDefault", _default_document(name, current().paths.config_file), text="")
    known = known_model(settings, name)
    if settings.model(name) is None and known.source is None:
        from lash_cli.cli.output import warn

        warn(f"nothing is known about {name}: no limits, no prices, no efforts", code="model_unknown")
    provider = default_provider(settings, environment)
    unasked = ", which asks no model; add one that does with: lash provider add NAME --default"
    say(f"new sessions use {name}, of provider {provider}{unasked if provider == LOOPBACK != name else ''}")
    say_if_overruled(settings, "defaults.model")
    return 0


def _default_document(name: str | None, file: str | None) -> Document:
    settings, environment = current().settings, current().environment
    entry = settings.model(name) if name is not None else None
    provider = default_provider(settings, environment)
    known = WELL_KNOWN.get(provider)
    variable = known.model_variable if known is not None else None
    if settings.default_model is not None:
        origin = settings.origin("defaults.model")
    else:
        origin = f"env {variable}" if variable is not None and environment.get(variable) else "built-in"
    return {
        "id": name,
        "name": name,
        "model": entry.id if entry is not None else name,
        "provider": provider,
        "origin": file or origin,
        "changed": file is not None,
    }


def alias(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The short name.")],
    model: Annotated[str | None, typer.Argument(metavar="[ID]", help="The id that goes to the provider.")] = None,
    variant: Annotated[str | None, typer.Option(help="The effort, such as low, or off.")] = None,
    max_output: Annotated[
        int | None, typer.Option("--max-output", metavar="TOKENS", min=1, help="The longest answer to ask for.")
    ] = None,
    context_window: Annotated[
        int | None, typer.Option("--context-window", metavar="TOKENS", min=1, help="How much it can read.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write it anew if it exists.")] = False,
    remove: Annotated[bool, typer.Option("--rm", help="Take the alias away.")] = False,
) -> int:
    """Give a model a short name, or take one away with --rm.

    The alias is a [models.NAME] table of the user's configuration file, where
    prices, reasoning and the rest can be set too.
    """
    if remove:
        if (model, variant, max_output, context_window) != (None, None, None, None) or replace:
            raise UsageError("--rm takes only the name of the alias")
        return _remove_alias(name)
    if model is None:
        raise UsageError(f"an alias needs the id it stands for: lash model alias {name} ID")
    for word, value in (("ID", model), ("--variant", variant)):
        if value is not None and not value.strip():
            raise UsageError(f"{word} is empty", hint=f"lash model alias {name} ID --variant EFFORT")
    _check_alias(name, model, replaces=replace)
    values = {
        "id": model,
        "variant": variant,
        "max_output_tokens": max_output,
        "context_window_tokens": context_window,
    }
    from lash_cli.settings.editing import set_values

    given = {f"models.{name}.{field}": value for field, value in values.items() if value is not None}
    _check_as_a_whole(name, given)
    had = current().settings.model(name) is not None
    set_values(current().paths, given, instead_of=("models", name))
    emit_one("ModelAlias", _alias_document(name, model, variant, replaced=had), text="")
    say(f"{name} is {model} now; use it with --model {name}, or: lash model default {name}")
    return 0


def _check_alias(name: str, model: str, *, replaces: bool) -> None:
    from lash_cli.providers.models import CATALOGUE
    from lash_cli.settings.schema import is_group

    if not is_group(("models", name)) or "." in name:
        raise UsageError(
            f"{name!r} cannot name a model",
            hint="an alias is letters, digits, - and _, and begins with one of the first",
        )
    if name in CATALOGUE and model != name:
        raise UsageError(f"{name} is the id of another model", hint="choose another alias")
    if current().settings.model(name) is not None and not replaces:
        raise ConflictError(
            f"there is an alias {name!r} already", code="alias_exists", hint="write it anew with --replace",
            details={"alias": name},
        )  # fmt: skip


def _check_as_a_whole(name: str, given: dict[str, Any]) -> None:
    """Raises `UsageError` when the alias could not be used as it would be written."""
    from lash_cli.settings import Settings
    from lash_cli.settings.values import Sourced
    from lash_cli.wiring import model_spec

    planned = Settings({key: Sourced(value, "planned") for key, value in given.items()})
    try:
        model_spec(planned, name)
    except ConfigError as error:
        raise of_arguments(error) from error


def _remove_alias(name: str) -> int:
    from lash_cli.settings.editing import remove_table

    settings = current().settings
    entry = settings.model(name)
    if entry is None:
        raise NotFoundError(
            f"no alias {name!r}", code="alias_not_found", hint="list them with: lash model ls", details={"alias": name}
        )
    if settings.default_model == name:
        raise ConflictError(
            f"{name!r} is the model of new sessions ({settings.origin('defaults.model')})",
            code="alias_in_use",
            hint="choose another first: lash model default ID",
            details={"alias": name},
        )
    if not remove_table(current().paths, "models", name):
        raise ConflictError(
            f"alias {name!r} does not stand in {current().paths.config_file}",
            code="alias_not_in_file",
            hint="see: lash config show --origin",
            details={"alias": name},
        )
    emit_one("ModelAlias", _alias_document(name, entry.id, entry.variant, removed=True), text="")
    say(f"removed alias {name}")
    return 0


def _alias_document(
    name: str, model: str, variant: str | None, *, replaced: bool | None = None, removed: bool | None = None
) -> Document:
    return {
        "id": name,
        "name": name,
        "model": model,
        "variant": variant,
        "file": current().paths.config_file,
        "replaced": replaced,
        "removed": removed,
    }
