"""`lash provider ls|add|rm` (contract 08 §5.4, §6.7): which endpoints there are, one more, one less.

`add` checks everything as building the provider would, before it writes
anything. A key itself never comes in as an argument: only where it is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lash_cli.cli.invocation import current
from lash_cli.cli.output import Document, emit_many, emit_one, say
from lash_cli.cli.secret_input import KeylessCommand, read_key
from lash_cli.core.nearest import did_you_mean
from lash_cli.errors import ConfigError, ConflictError, LashError, NotFoundError, UsageError
from lash_cli.settings.providers import (
    KEY_VARIABLES,
    KIND_ALIASES,
    LOOPBACK,
    WELL_KNOWN,
    AvailableProvider,
    available_provider,
    default_model,
    default_provider,
    provider_names,
)
from lash_cli.settings.redact import is_credential, masked, redact

if TYPE_CHECKING:
    from lash_cli.settings import Settings

command_class = KeylessCommand

_COLUMNS = ("name", "provider_kind", "base_url", "key", "default")


def list_providers() -> int:
    """List the providers a session may name, and where their keys come from.

    Besides the configured ones there are loopback, which needs no network, and
    openai, anthropic and google as soon as OPENAI_API_KEY, ANTHROPIC_API_KEY or
    GEMINI_API_KEY is set. No key is looked at and nothing is called.
    """
    settings, environment = current().settings, current().environment
    chosen = default_provider(settings, environment)
    items = [
        _item(available_provider(settings, environment, name), is_default=name == chosen)
        for name in provider_names(settings, environment)
    ]
    emit_many("ProviderList", items, columns=_COLUMNS)
    return 0


def _item(provider: AvailableProvider, *, is_default: bool) -> Document:
    return {
        "id": provider.name,
        "name": provider.name,
        "provider_kind": provider.kind,
        "base_url": shown_address(provider),
        "key": None if provider.key is None else redact(provider.key),
        "default": is_default,
        "origin": provider.origin,
    }


def shown_address(provider: AvailableProvider) -> str | None:
    """Where a provider is called, its kind's own address when it names none."""
    from lash_cli.providers.catalog import KINDS

    kind = KINDS.get(provider.kind)
    address = provider.base_url or (kind.default_base_url if kind is not None else None)
    return None if address is None else redact(address)


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it, such as openrouter.")],
    kind: Annotated[
        str | None, typer.Option(help="openai_chat (the default), openai_responses, anthropic or google.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The address, as http://127.0.0.1:8080/v1.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Where its key is kept: env:NAME, keys:NAME, file:PATH, …")
    ] = None,
    from_stdin: Annotated[bool, typer.Option("--stdin", help="Read the key from stdin and store it.")] = False,
    ask_key: Annotated[
        bool, typer.Option("--ask-key", help="Ask for the key by a hidden prompt and store it.")
    ] = False,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option, as max_attempts=2; repeatable.")
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="Make it the provider of new sessions.")] = False,
) -> int:
    """Add a provider to the user's configuration file.

    openai, anthropic and google need nothing else; any other NAME needs --base-url,
    or --kind for the server that kind is of.
    Everything is checked first and nothing is called; `lash provider test NAME`
    does that. --key says where the key is kept, --stdin and --ask-key bring it.
    Where a key is certainly needed it is asked for without --ask-key too.
    """
    from lash_cli.settings import keys
    from lash_cli.settings.editing import set_values

    _check_name(name)
    if (key is not None) + from_stdin + ask_key > 1:
        raise UsageError(
            "--key, --stdin and --ask-key contradict each other", hint="one of them says all about the key"
        )
    if key is not None:
        _check_source(key)
    if base_url is not None and not base_url.strip():
        raise UsageError("--base-url is empty", hint="leave it out for the address of its kind")
    options = _options(option or [])
    if kind is None and base_url is None:
        _check_well_known(name)
    chosen = _kind(name, kind)
    needs_key = check_provider(name, chosen, base_url, options)
    source, is_new_key = key, False
    if key is None and (from_stdin or ask_key or (needs_key and not _has_variable(chosen, base_url))):
        is_new_key = keys.read_stored(current().paths).source(name) is None
        value = read_key(name, from_stdin=from_stdin, command=f"lash provider add {name}")
        source = keys.store_key(current().paths, name, value)
    values = {"kind": chosen, "base_url": base_url, "key": source, "options": options or None}
    written: dict[str, Any] = {
        f"providers.{name}.{field}": value for field, value in values.items() if value is not None
    }
    if default:
        written["defaults.provider"] = name
    try:
        set_values(current().paths, written)
    except LashError:
        if is_new_key:
            keys.forget_key(current().paths, name)  # nothing would name it
        raise
    document = _document(name, chosen, base_url, source, options, is_default=default, added=True)
    emit_one("Provider", document, text="")
    model = "" if default_model(current().settings, current().environment, name) is not None else " --model ID"
    say(f"added provider {name} to {current().paths.config_file}; try it with: lash provider test {name}{model}")
    if default:
        say_if_overruled(current().settings, "defaults.provider")
    return 0


def say_if_overruled(settings: Settings, key: str) -> None:
    """A note when what was written to the user's file is not what is in force here."""
    origin = settings.origin(key)
    if not origin.startswith(("user ", "built-in")):
        say(f"here {key} is {settings.get(key)} all the same, because of {origin}")


def _check_name(name: str) -> None:
    """Raises `UsageError` for a name that cannot be one, `ConflictError` for one that is taken."""
    from lash_cli.settings.schema import is_group

    if not is_group(("providers", name)) or "." in name:
        raise UsageError(
            f"{name!r} cannot name a provider",
            hint="a name is letters, digits, - and _, and begins with one of the first",
        )
    if name == LOOPBACK:
        raise UsageError(f"{LOOPBACK} is reserved for the built-in provider", hint="choose another name")
    if name in current().settings.names("providers"):
        raise ConflictError(
            f"there is a provider {name!r} already",
            code="provider_exists",
            hint=f"change it with: lash config set providers.{name}.base_url URL, or: lash provider rm {name}",
            details={"provider": name},
        )


def _check_well_known(name: str) -> None:
    """Raises `UsageError` (`provider_unknown`) for a name that does not say which server it stands for: a key that is
    given with it would go to the server of the usual kind."""
    if name in WELL_KNOWN:
        return
    own = "one of your own needs --base-url URL, or --kind KIND for the server that kind is of"
    hint, near = did_you_mean(name, WELL_KNOWN, own)
    raise UsageError(
        f"{name!r} is not among the providers that need no address: {', '.join(WELL_KNOWN)}",
        code="provider_unknown",
        hint=f"{hint}; {own}" if near else own,
        details={"provider": name, "nearest": near},
    )


def _kind(name: str, kind: str | None) -> str:
    """The kind that is meant. Raises `UsageError` for one that does not exist or is reserved."""
    from lash_cli.providers.catalog import KINDS

    if kind is None:
        return WELL_KNOWN[name].kind if name in WELL_KNOWN else "openai_chat"
    chosen = KIND_ALIASES.get(kind, kind)
    valid = sorted(set(KINDS) - {LOOPBACK})
    if chosen not in valid:
        hint, _ = did_you_mean(chosen, valid, "most servers speak openai_chat", before="--kind ")
        raise UsageError(
            f"unknown kind of provider {kind!r}; there are: {', '.join(valid)}",
            hint=hint,
            details={"kind": kind, "valid": valid},
        )
    return chosen


def _check_source(source: str) -> None:
    """Raises `UsageError` unless `source` says where a key is kept; the text is not repeated."""
    from lash_cli.settings.schema import Option, check_value

    try:
        check_value(Option("key_source"), source)
    except ValueError as error:
        raise UsageError(f"--key: {error}", hint="to bring the key itself use --stdin or the hidden prompt") from error


def _options(texts: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` options as the table of the file; a dotted name is a table in it."""
    from lash_cli.settings.schema import loose_toml_value

    table: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        parts = path.strip().split(".")
        if not equals or not all(parts):
            raise UsageError("--option needs NAME=VALUE", hint="for example: --option max_attempts=2")
        if is_credential(parts):
            raise UsageError(
                f"--option {path.strip()}: a credential is never given as an argument",
                hint="keep the key itself with --key, --stdin or --ask-key, and say with key_header how it travels",
            )
        place = table
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UsageError(f"--option {path.strip()}: {part} is a value already")
        place[parts[-1]] = loose_toml_value(value.strip(), parts)
    return table


def check_provider(name: str, kind: str, base_url: str | None, options: dict[str, Any]) -> bool:
    """Whether the address needs a key; everything else is checked as building the provider does.

    Raises `UsageError` with the code of what is wrong.
    """
    from lash_cli.providers.catalog import ProviderSettings, build_caller
    from lash_cli.system import SystemClock

    needs_key = False
    for key in (None, "a-key-to-check-the-rest-with"):
        settings = ProviderSettings(name, kind, base_url, key, options)
        try:
            build_caller(settings, clock=SystemClock(), ids_bits=lambda _: 0)
        except ConfigError as error:
            if error.code != "key_missing" or key is not None:
                raise of_arguments(error) from error
            needs_key = True
        else:
            break
    return needs_key


def of_arguments(error: ConfigError) -> UsageError:
    """What is wrong with a part of the configuration that arguments describe: they are, and no file is."""
    code = None if error.code == ConfigError.default_code else error.code
    return UsageError(error.message, code=code, hint=error.hint)


def _has_variable(kind: str, base_url: str | None) -> bool:
    """Whether the environment has the key of this kind, for the address it is for."""
    return base_url is None and bool(current().environment.get(KEY_VARIABLES.get(kind, "")))


def _document(
    name: str,
    kind: str,
    base_url: str | None,
    key: str | None,
    options: dict[str, Any],
    *,
    is_default: bool,
    added: bool | None = None,
    removed: bool | None = None,
) -> Document:
    return {
        "id": name,
        "name": name,
        "provider_kind": kind,
        "base_url": base_url,
        "key": None if key is None else redact(key),
        "options": masked(options),
        "default": is_default,
        "file": current().paths.config_file,
        "added": added,
        "removed": removed,
    }


def remove(name: Annotated[str, typer.Argument(metavar="NAME", help="As `lash provider ls` shows it.")]) -> int:
    """Take a provider out of the user's configuration file.

    Its stored key stays; `lash key rm` forgets it. Sessions that name the
    provider stay too, and say what is missing when they are run.
    """
    from lash_cli.settings.editing import remove_table

    settings, environment = current().settings, current().environment
    entry = settings.provider(name)
    if entry is None:
        raise _not_removable(name)
    if settings.default_provider == name:
        raise ConflictError(
            f"provider {name!r} is the default of new sessions ({settings.origin('defaults.provider')})",
            code="provider_in_use",
            hint=f"choose another first: lash config set defaults.provider {LOOPBACK}",
            details={"provider": name},
        )
    if not remove_table(current().paths, "providers", name):
        origin = available_provider(settings, environment, name).origin
        raise ConflictError(
            f"provider {name!r} does not stand in {current().paths.config_file} but in: {origin}",
            code="provider_not_in_file",
            hint="take it out there",
            details={"provider": name, "origin": origin},
        )
    document = _document(name, entry.kind, entry.base_url, entry.key, entry.options, is_default=False, removed=True)
    emit_one("Provider", document, text="")
    kept = (
        f"; its key stays, forget it with: lash key rm {name}"
        if entry.key in (f"keys:{name}", f"keyring:{name}")
        else ""
    )
    say(f"removed provider {name}{kept}")
    return 0


def _not_removable(name: str) -> ConflictError | NotFoundError:
    """The error for a provider that has no table."""
    settings, environment = current().settings, current().environment
    if name == LOOPBACK:
        return ConflictError(f"{LOOPBACK} is built in and stays", code="provider_built_in")
    known = provider_names(settings, environment)
    if name in known:
        origin = available_provider(settings, environment, name).origin
        return ConflictError(
            f"provider {name!r} is there because of {origin}",
            code="provider_not_in_file",
            hint=f"unset {origin.removeprefix('env ')}",
            details={"provider": name, "origin": origin},
        )
    hint, _ = did_you_mean(name, known, "list them with: lash provider ls")
    return NotFoundError(f"no provider {name!r}", code="provider_not_found", hint=hint, details={"provider": name})
