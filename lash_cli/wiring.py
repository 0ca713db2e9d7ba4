"""The composition root: settings and places become one `LashCore` (design §1, D13).

Nothing is opened until it is asked for: the store when a verb needs it, a
provider (and its key) when the first model call resolves it. Which providers
there are, and which one is meant, says `settings.providers`. A look at a
session comes through here for its store alone, so this module imports neither
settings nor providers (design D16).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec

from lash_cli.errors import ConfigError
from lash_cli.paths import Paths, absolute, current_directory, ensure_private_directory, unwritten_file

if TYPE_CHECKING:
    from lash_cli.api import LashCore
    from lash_cli.core.policy import ModelCapability, ModelSpec, SessionPolicy
    from lash_cli.core.protocols import Clock, Ids, ModelCaller, ToolProvider
    from lash_cli.providers.models import KnownModel
    from lash_cli.runtime.host import ProviderResolver
    from lash_cli.runtime.tracing import Tracer
    from lash_cli.settings import ModelEntry, Settings
    from lash_cli.settings.providers import AvailableProvider
    from lash_cli.store.base import RuntimePersistence
    from lash_cli.tools.approval import Asker

# What a request asks for at most when the user says nothing, even of a model that can write more (contract 06 §3.1).
DEFAULT_OUTPUT_TOKENS = 32_768
_NO_REASONING = frozenset({"none", "off", "disabled"})


def open_store(paths: Paths, *, read_only: bool = False, synchronous: str = "full") -> RuntimePersistence:
    """The SQLite store at `paths.database`.

    With `read_only` nothing is created: a missing file is `NotFoundError`
    (`store_not_found`). Whatever a writing one commits wakes those who watch.
    Raises `StoreUnusable`, `StoreLocked`, `StoreReadOnly`, and as `paths.unusable_path`.
    """
    from lash_cli.store.sqlite.store import SqliteStore
    from lash_cli.system import SystemClock, SystemIds

    if not read_only:
        ensure_private_directory(os.path.dirname(paths.database))
    store = SqliteStore.open(
        paths.database,
        clock=SystemClock(),
        ids=SystemIds(),
        read_only=read_only,
        synchronous="normal" if synchronous == "normal" else "full",
    )
    if not read_only:
        from lash_cli.runtime.bells import BellRinger

        store.live.ring_with(BellRinger(store.live.bell_name))
    return store


def known_model(settings: Settings, name: str) -> KnownModel:
    """What is known about the model behind an alias or an id: the shipped catalogue, and the user's fields over it.

    Raises `ConfigError` for a `[models.NAME]` table that cannot be used.
    """
    from lash_cli.providers.models import described

    entry = settings.model(name)
    try:
        return described(name, {}) if entry is None else described(entry.id, entry.overrides)
    except ValueError as error:
        raise ConfigError(f"model {name!r}: {error}") from error


def model_spec(settings: Settings, name: str) -> ModelSpec:
    """The model behind an alias of `[models.NAME]` or, if there is none, an id.

    Limits and abilities are those of `known_model`; of a model nothing is known
    about they are absent, never guessed. Naming a variant of such a model is the
    user's word that it takes that effort. Raises `ConfigError`.
    """
    from lash_cli.core.policy import ModelLimits, ModelSpec

    entry = settings.model(name)
    known = known_model(settings, name)
    try:
        limits = ModelLimits(known.context_window_tokens, _output_cap(entry, known))
        model = ModelSpec(known.id, limits=limits, capability=known.capability)
    except ValueError as error:
        raise ConfigError(f"model {name!r}: {error}") from error
    return model if entry is None or entry.variant is None else with_variant(model, entry.variant, name=name)


def with_variant(model: ModelSpec, variant: str, *, name: str | None = None) -> ModelSpec:
    """`model` at an effort, at `off` or at `default`; `name` is what the user calls it. Raises `ConfigError` for what
    each of its turns would be refused for: an effort that is known not to be one of its (`unsupported_effort`), and
    `off` where no way to turn its reasoning off is known (`effort_required`)."""
    from lash_cli.core.policy import ModelCapability, ReasoningCapability, ReasoningDisabled, ReasoningEffort

    selection = _variant(variant)
    capability = model.capability
    if isinstance(selection, ReasoningEffort):
        if capability is None or capability.reasoning is None:
            reasoning = ReasoningCapability(efforts=(selection.effort,))
            capability = msgspec.structs.replace(capability or ModelCapability(), reasoning=reasoning)
        _check_effort(name or model.id, selection.effort, capability)
    elif isinstance(selection, ReasoningDisabled):
        _check_off(name or model.id, capability)
    return msgspec.structs.replace(model, variant=selection, capability=capability)


def _output_cap(entry: ModelEntry | None, known: KnownModel) -> int | None:
    """The most tokens one answer may have: what the user says, else what the model can, within the usual bound."""
    if entry is not None and "max_output_tokens" in entry.overrides:
        return known.max_output_tokens
    return None if known.max_output_tokens is None else min(known.max_output_tokens, DEFAULT_OUTPUT_TOKENS)


def _check_effort(name: str, effort: str, capability: ModelCapability) -> None:
    reasoning = capability.reasoning
    if reasoning is None or effort in reasoning.efforts or effort in reasoning.aliases:
        return
    raise ConfigError(
        f"model {name!r} has no effort {effort!r}; it has: {', '.join(reasoning.efforts) or 'none'}",
        code="unsupported_effort",
        hint=f"if it has it now, say so: lash config set models.{name}.reasoning.efforts '[\"{effort}\"]'",
    )


def _check_off(name: str, capability: ModelCapability | None) -> None:
    reasoning = capability.reasoning if capability is not None else None
    if reasoning is not None and reasoning.disable is not None and not reasoning.mandatory:
        return
    known = "cannot be turned off" if reasoning is not None else "is not known to be one that can be turned off"
    raise ConfigError(
        f"the reasoning of model {name!r} {known}",
        code="effort_required",
        hint=f"if it can be, say how, such as: lash config set models.{name}.reasoning.disable 'effort(none)'",
    )


def _variant(name: str | None) -> Any:
    from lash_cli.core.policy import ProviderDefault, ReasoningDisabled, ReasoningEffort

    if name is None or name == "default":
        return ProviderDefault()
    return ReasoningDisabled() if name in _NO_REASONING else ReasoningEffort(name)


def host_policy(
    settings: Settings,
    environment: Mapping[str, str],
    *,
    provider: str | None = None,
    model: str | None = None,
    needs_model: bool = False,
) -> SessionPolicy:
    """The policy a new session starts from: options over settings over environment over built-in.

    Where a stored session brings its own model none has to be known;
    `needs_model` raises `ConfigError` when it is not. Raises
    `provider_unconfigured` for an explicit provider that is not configured.
    """
    from lash_cli.core.policy import PromptLayer, SessionPolicy, session_prompt
    from lash_cli.settings.providers import default_model, default_provider, require_provider

    chosen = default_provider(settings, environment) if provider is None else provider
    if provider is not None or needs_model:
        require_provider(settings, environment, chosen)
    name = model or default_model(settings, environment, chosen)
    if name is None:
        if needs_model:
            raise ConfigError(
                f"no model is chosen for provider {chosen!r}",
                hint="give --model ID, or: lash config set defaults.model ID",
            )
        name = "unspecified"
    system = settings.default_system
    return SessionPolicy(
        model_spec(settings, name),
        chosen,
        max_turns=settings.max_steps,
        prompt=session_prompt(system) if system else PromptLayer(),
    )


class ConfiguredProviders:
    """Builds each configured provider when it is first resolved; implements `runtime.host.ProviderResolver`."""

    keeps_its_word = True  # as `runtime.host.resolver_of` asks

    def __init__(
        self,
        settings: Settings,
        paths: Paths,
        environment: Mapping[str, str],
        *,
        default_id: str,
        clock: Clock,
        ids: Ids,
        tracer: Tracer | None = None,
        owns_tracer: bool = False,
        fetched_keys: Mapping[str, str] | None = None,
    ) -> None:
        """`tracer` records requests at level extended; with `owns_tracer` it is closed with the callers.
        `fetched_keys` are as for `build_provider`."""
        self._settings = settings
        self._paths = paths
        self._environment = environment
        self._default_id = default_id
        self._clock = clock
        self._ids = ids
        self._tracer = tracer
        self._owns_tracer = owns_tracer
        self._fetched_keys = fetched_keys
        self._callers: dict[str, ModelCaller] = {}

    @property
    def default_id(self) -> str:
        """The provider a new session records."""
        return self._default_id

    def resolve(self, provider_id: str) -> ModelCaller:
        """The caller of a provider; its key is fetched now. Raises `ConfigError` (`provider_unconfigured`,
        `key_missing`, `permissions_unsafe`, `config_invalid`)."""
        caller = self._callers.get(provider_id)
        if caller is None:
            caller = self._callers[provider_id] = self._build(provider_id)
        return caller

    async def aclose(self) -> None:
        """Release every caller that was built."""
        for caller in self._callers.values():
            await caller.aclose()
        if self._tracer is not None and self._owns_tracer:
            self._tracer.close()

    def _build(self, name: str) -> ModelCaller:
        from lash_cli.settings.providers import available_provider

        tracer = self._tracer if self._tracer is not None and self._tracer.shows_the_wire else None
        provider = available_provider(self._settings, self._environment, name)
        return build_provider(
            provider,
            self._paths,
            self._environment,
            clock=self._clock,
            ids=self._ids,
            on_request=partial(tracer.provider_request, name) if tracer is not None else None,
            on_event=partial(tracer.provider_event, name) if tracer is not None else None,
            fetched_keys=self._fetched_keys,
        )


def build_provider(
    provider: AvailableProvider,
    paths: Paths,
    environment: Mapping[str, str],
    *,
    clock: Clock,
    ids: Ids,
    on_request: Callable[[str, bytes], None] | None = None,
    on_event: Callable[[str], None] | None = None,
    fetched_keys: Mapping[str, str] | None = None,
) -> ModelCaller:
    """The caller of a provider; its key is fetched now, unless `fetched_keys` has one for its source, and nothing is
    opened.

    Raises `ConfigError` (`key_missing`, `permissions_unsafe`, `config_invalid`,
    `invalid_provider_endpoint`).
    """
    from lash_cli.providers.catalog import ProviderSettings, build_caller

    key = (fetched_keys or {}).get(provider.key or "")
    if key is None and provider.key is not None:
        from lash_cli.settings.keys import fetch_key

        key = fetch_key(provider.key, paths, environment, wanted_by=f"provider {provider.name}")
    if provider.options:
        from lash_cli.settings.redact import remember_credentials

        remember_credentials(provider.options)
    resolved = ProviderSettings(provider.name, provider.kind, provider.base_url, key, dict(provider.options))
    return build_caller(resolved, clock=clock, ids_bits=ids.bits, on_request=on_request, on_event=on_event)


def standard_tools(
    settings: Settings, paths: Paths, cwd: str, clock: Clock, *, trace_file: str | None = None
) -> ToolProvider:
    """The built-in tools, kept inside the configured roots, out of everything lash itself stores and of files with
    keys."""
    from pathlib import Path

    from lash_cli.tools.builtin import builtin_tools
    from lash_cli.tools.policy import FilePolicy
    from lash_cli.tools.spilling import DIRECTORY_NAME

    roots = settings.tool_roots
    directories = (cwd,) if roots is None else tuple(os.path.join(cwd, os.path.expanduser(root)) for root in roots)
    private: tuple[str, ...] = (
        paths.config_dir,
        paths.data_dir,
        paths.state_dir,
        paths.runtime_dir,
        paths.config_file,
        paths.keys_file,
        paths.log_file,
        paths.database,
        *paths.beside_database(),
        # A relative one is of where lash runs, which may be where the session works and may be elsewhere next time.
        *(os.path.join(base, os.path.expanduser(file)) for file in settings.key_files for base in ("", cwd)),
    )
    if trace_file is not None:
        private = (*private, trace_file)
    policy = FilePolicy(
        tuple(Path(directory) for directory in directories),
        settings.allow_outside,
        denied=tuple(Path(place) for place in private),
    )
    return builtin_tools(policy, Path(cwd), Path(paths.state_dir) / DIRECTORY_NAME, clock)


def trace_path(settings: Settings, named: str | None) -> str | None:
    """The absolute path of the trace file: the one named, else the configured one; None when nothing is traced.

    A relative path is one of the current directory, wherever it was written. Raises as `paths.absolute`.
    """
    path = named or settings.trace_file
    return None if path is None else absolute(os.path.expanduser(path))


def open_tracer(path: str, level: str, clock: Clock, ids: Ids) -> Tracer:
    """A tracer to the file at `path`, which is created now. Raises as `paths.unwritten_file`."""
    from lash_cli.core.trace import TraceLevel
    from lash_cli.runtime.trace_sinks import JsonlTraceSink
    from lash_cli.runtime.tracing import Tracer
    from lash_cli.settings.redact import redact

    sink = JsonlTraceSink(path)
    try:
        sink.open()
    except OSError as error:
        raise unwritten_file(path, error, "nothing was sent") from error
    return Tracer(sink, clock=clock, ids=ids, redact=redact, level=TraceLevel(level))


def open_providers(
    settings: Settings, paths: Paths, *, environment: Mapping[str, str] | None = None
) -> ConfiguredProviders:
    """The providers of the user, for cores that share them (`open_core` with `providers`); the caller closes them.

    What they trace goes where the settings say. Raises what `open_tracer` raises.
    """
    from lash_cli.settings.providers import default_provider
    from lash_cli.system import SystemClock, SystemIds

    surroundings = os.environ if environment is None else environment
    clock, ids = SystemClock(), SystemIds()
    traced = trace_path(settings, None)
    return ConfiguredProviders(
        settings,
        paths,
        surroundings,
        default_id=default_provider(settings, surroundings),
        clock=clock,
        ids=ids,
        tracer=open_tracer(traced, settings.trace_level, clock, ids) if traced is not None else None,
        owns_tracer=True,
    )


def open_core(
    settings: Settings,
    paths: Paths,
    *,
    environment: Mapping[str, str] | None = None,
    store: RuntimePersistence | None = None,
    providers: ProviderResolver | None = None,
    is_ephemeral: bool = False,
    provider: str | None = None,
    model: str | None = None,
    needs_model: bool = False,
    cwd: str | None = None,
    approve: Mapping[str, str] | None = None,
    asker: Asker | None = None,
    owner_label: str = "turn",
    trace_file: str | None = None,
    fetched_keys: Mapping[str, str] | None = None,
) -> LashCore:
    """One core over the user's store, providers, tools and approval modes.

    `store` reuses an open one; with `providers` too, both stay the caller's
    and are left open when the core closes, so that one worker's cores share
    them. `is_ephemeral` keeps sessions in memory only. No core drives queues in
    the background: a verb that drains says so.
    `approve` overrides approval modes by class; `asker` asks a person.
    `needs_model` is for verbs that may create a session. `trace_file` traces
    there instead of where the settings say. `fetched_keys` are as for
    `build_provider`. Raises what `open_store`, `host_policy` and `open_tracer`
    raise.
    """
    from lash_cli.api.core import LashCore
    from lash_cli.core.lease import LeaseTimings
    from lash_cli.system import SystemClock, SystemIds
    from lash_cli.tools.approval import ApprovalMode, StandardApproval

    surroundings = os.environ if environment is None else environment
    policy = host_policy(settings, surroundings, provider=provider, model=model, needs_model=needs_model)
    clock, ids = SystemClock(), SystemIds()
    modes = {name: ApprovalMode(mode) for name, mode in {**settings.approval, **(approve or {})}.items()}
    traced = trace_path(settings, trace_file)
    tracer = open_tracer(traced, settings.trace_level, clock, ids) if traced is not None else None
    if store is None and not is_ephemeral:
        store = open_store(paths, synchronous=settings.synchronous)
    tools = standard_tools(settings, paths, cwd or current_directory(), clock, trace_file=traced)
    return LashCore(
        store=store,
        providers=providers
        or ConfiguredProviders(
            settings,
            paths,
            surroundings,
            default_id=policy.provider_id,
            clock=clock,
            ids=ids,
            tracer=tracer,
            fetched_keys=fetched_keys,
        ),
        policy=policy,
        tools=(tools,),
        approval=StandardApproval(cast("Any", modes), asker),
        lease_timings=LeaseTimings.from_ttl(settings.lease_ttl_ms),
        clock=clock,
        ids=ids,
        owner_label=owner_label,
        queue_driver="none",
        owns_resources=providers is None,
        tracer=tracer,
    )
