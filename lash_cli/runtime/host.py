"""What every turn of a core shares: its store, effect host, providers, clock and policies.

`LashCore` builds one; the runtime only reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec

from lash_cli.core.attachments import AttachmentPolicy
from lash_cli.core.codec import described
from lash_cli.core.context import ContextPlugin
from lash_cli.core.lease import LeaseTimings
from lash_cli.core.prompt import NO_BUILTINS, PromptBuiltins
from lash_cli.core.protocols import ApprovalPolicy, Clock, EffectHost, Ids, ModelCaller
from lash_cli.errors import ConfigError, LashError, ProviderMismatch, ProviderUnconfigured
from lash_cli.runtime.cancellation import FAILURES
from lash_cli.store.base import RuntimePersistence

if TYPE_CHECKING:
    from lash_cli.runtime.tool_hooks import ToolHookSet
    from lash_cli.runtime.tracing import Tracer

T = TypeVar("T")

ANY_ATTACHMENT = AttachmentPolicy()

CrashPoint = Callable[[str], None]


class ProviderResolver(Protocol):
    """Finds the model caller behind a provider id."""

    @property
    def default_id(self) -> str:
        """The provider a new session records."""
        ...

    def resolve(self, provider_id: str) -> ModelCaller:
        """The caller; raises `ConfigError` (`provider_unconfigured`, `key_missing`) or `ProviderMismatch`
        when the recorded provider is not the one wired."""
        ...

    async def aclose(self) -> None:
        """Release every caller."""
        ...


class _CheckedProviders:
    """A resolver that is not ours. That it has no provider says nothing about the session that asks for it, and keeps
    no turn from being cancelled, however it says so."""

    def __init__(self, given: ProviderResolver, *, is_strict: bool) -> None:
        self._given = given
        self._is_strict = is_strict

    @property
    def default_id(self) -> str:
        """The provider a new session records."""
        return self._given.default_id

    def resolve(self, provider_id: str) -> ModelCaller:
        """The caller; raises what the resolver raises of our errors, and `ProviderUnconfigured` for everything else,
        an answer that is no caller too."""
        try:
            caller = self._given.resolve(provider_id)
            if hasattr(caller, "call"):
                return caller
            problem = f"it answered {type(caller).__name__}"
        except LashError:
            raise
        except FAILURES as error:
            if self._is_strict:
                raise
            problem = described(error)
        raise ProviderUnconfigured(
            f"the resolver of this core has no provider {provider_id!r}: {problem}",
            hint="resolve() returns a ModelCaller, or raises ConfigError for a provider there is not",
        )

    async def aclose(self) -> None:
        """Release every caller."""
        await self._given.aclose()


def resolver_of(given: ProviderResolver, *, is_strict: bool) -> ProviderResolver:
    """`given`, held to its word unless it says that it is ours: `keeps_its_word`. With `is_strict` what it raises comes
    out."""
    return given if hasattr(given, "keeps_its_word") else _CheckedProviders(given, is_strict=is_strict)


class SingleProvider:
    """A resolver over one caller: any other id is a provider mismatch (contract 01 §2.4)."""

    keeps_its_word = True

    def __init__(self, caller: ModelCaller) -> None:
        self._caller = caller

    @property
    def default_id(self) -> str:
        """The caller's own id."""
        return self._caller.provider_id

    def resolve(self, provider_id: str) -> ModelCaller:
        """The caller, if it is the one the session recorded; raises `ProviderMismatch` otherwise."""
        if provider_id != self._caller.provider_id:
            raise ProviderMismatch(provider_id, self._caller.provider_id)
        return self._caller

    async def aclose(self) -> None:
        """Release the caller."""
        await self._caller.aclose()


class GivenProvider(SingleProvider):
    """A resolver that answers every id with the caller one turn or one opened session was given (contract 01 §5.2, §2).
    What is recorded stays as it is."""

    def resolve(self, provider_id: str) -> ModelCaller:
        """The caller."""
        return self._caller

    async def aclose(self) -> None:
        """Nothing: the caller belongs to who gave it."""


class ProviderStatus(msgspec.Struct, frozen=True):
    """Whether the provider a session is recorded with can serve its next turn (contract 01 §2.4): `code` and `message`
    are those of the error that the turn would raise, None when it can. Nobody was asked over the network."""

    provider_id: str
    code: str | None = None
    message: str | None = None

    @property
    def is_usable(self) -> bool:
        """Whether a turn would find its provider."""
        return self.code is None


def provider_status(providers: ProviderResolver, provider_id: str) -> ProviderStatus:
    """What resolving the provider comes to."""
    try:
        providers.resolve(provider_id)
    except LashError as error:
        return ProviderStatus(provider_id, error.code, error.message)
    return ProviderStatus(provider_id)


class RuntimeHost(msgspec.Struct, frozen=True):
    """The shared wiring. `store` None means sessions live in memory only. With `is_strict` nothing that foreign code
    raises is contained (contract 05 §3.6)."""

    store: RuntimePersistence | None
    effects: EffectHost
    providers: ProviderResolver
    clock: Clock
    ids: Ids
    timings: LeaseTimings
    approval: ApprovalPolicy | None = None
    crash_point: CrashPoint | None = None
    tracer: Tracer | None = None
    attachments: AttachmentPolicy = ANY_ATTACHMENT
    builtins: PromptBuiltins = NO_BUILTINS
    context: tuple[ContextPlugin, ...] = ()
    is_strict: bool = False
    tool_hooks: ToolHookSet | None = None

    def calling(self, caller: ModelCaller | None) -> RuntimeHost:
        """The wiring with every model call made by `caller`; the same without one."""
        return self if caller is None else msgspec.structs.replace(self, providers=GivenProvider(caller))

    def reach(self, point: str) -> None:
        """Tell a fault-injecting test where the turn is; nothing otherwise."""
        if self.crash_point is not None:
            self.crash_point(point)


# What each collaborator has, and how one is made of what is most often given in its place.
_COLLABORATORS: Final = {
    "provider": ("call", "it is made by provider('loopback'), or RetryingCaller(…) around a Provider of your own"),
    "store": ("live", "it is made by SqliteStore.open(path)"),
    "tools": ("manifests", "each of its members is a source of tools, such as FunctionToolProvider([function, …])"),
    "approval": ("decide", "it is an object with the method decide of ApprovalPolicy"),
    "providers": ("resolve", "it is an object with the methods of ProviderResolver"),
    "policy": ("provider_id", "it is a SessionPolicy(model, provider_id)"),
    "effect_host": ("scoped", "it is an object with the methods of EffectHost"),
    "lease_timings": ("renew_interval_ms", "it is LeaseTimings(ttl_ms, renew_interval_ms)"),
    "clock": ("now_ms", "it is an object with the methods of Clock"),
    "ids": ("token", "it is an object with the methods of Ids"),
    "crash_point": ("__call__", "it is a function of the name of the point that was reached"),
    "queue_driver": ("notify", "it is 'inline', 'none' or an object with the methods of Driver"),
    "tracer": ("let_through", "it is a Tracer(sink)"),
    "attachments": ("refusal", "it is an AttachmentPolicy(…)"),
    "builtins": ("core_guidance", "it is PromptBuiltins(…)"),
    "context": ("prepare_turn", "each of its members is an object with the methods of ContextPlugin"),
}


def require_collaborators(**given: object) -> None:
    """Raise as `require_collaborator` for each that is given; None is for one that is not."""
    for name, collaborator in given.items():
        if collaborator is not None:
            require_collaborator(name, collaborator)


def require_collaborator(name: str, given: object) -> None:
    """Raise `ConfigError` for what does not have what will be asked of it."""
    has, hint = _COLLABORATORS[name]
    if not hasattr(given, has):
        raise ConfigError(f"{name} cannot be of the type {type(given).__name__}", hint=hint)


def collaborators(name: str, given: Iterable[T]) -> tuple[T, ...]:
    """Every member of `given`; raises as `require_collaborator`, also for one alone."""
    if not isinstance(given, Iterable):
        raise ConfigError(f"{name} cannot be of the type {type(given).__name__}", hint=_COLLABORATORS[name][1])
    members = tuple(given)
    for member in members:
        require_collaborator(name, member)
    return members
