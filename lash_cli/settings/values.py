"""The merged settings: every value with the place it came from (contract 08 §6.7)."""

from __future__ import annotations

from typing import Any, NamedTuple

from lash_cli.settings.schema import NAMED_SECTIONS, NEVER, SECTIONS, find_option

BUILT_IN = "built-in"
# What a provider of this name is when its table does not say.
_DEFAULT_KINDS = {"anthropic": "anthropic", "google": "google"}
_DEFAULT_KIND = "openai_chat"


class Sourced(NamedTuple):
    """A value and its origin, such as `user /home/me/.config/lash/config.toml:3`."""

    value: Any
    origin: str


class ModelEntry(NamedTuple):
    """A `[models.ALIAS]` table. `overrides` are the fields the user set beside `id` and `variant`, by name."""

    alias: str
    id: str
    variant: str | None
    overrides: dict[str, Any]


class ProviderEntry(NamedTuple):
    """A `[providers.NAME]` table. `key` says where the key is kept; it is resolved when the provider is built."""

    name: str
    kind: str
    base_url: str | None
    key: str | None
    options: dict[str, Any]


class Settings:
    """What is in force. Immutable by convention; `warnings` are for the user, once."""

    def __init__(self, values: dict[str, Sourced], warnings: tuple[str, ...] = (), profile: str | None = None) -> None:
        self._values = values
        self.warnings = warnings
        self.profile = profile

    def get(self, key: str) -> Any:
        """The value of a key, its built-in default when nobody set it. Raises `UnknownKey`."""
        set_value = self._values.get(key)
        return set_value.value if set_value is not None else find_option(key)[0].default

    def origin(self, key: str) -> str:
        """Where the value of a key came from."""
        set_value = self._values.get(key)
        return set_value.origin if set_value is not None else BUILT_IN

    def rows(self) -> list[tuple[str, Any, str]]:
        """Every key in force with value and origin: the fixed ones in table order, then the named ones sorted."""
        fixed = [f"{section}.{name}" for section, options in SECTIONS.items() for name in options]
        named = sorted(key for key in self._values if key not in set(fixed))
        return [(key, self.get(key), self.origin(key)) for key in (*fixed, *named)]

    def names(self, section: str) -> list[str]:
        """The names a user gave in a named section, sorted."""
        return sorted({key.split(".")[1] for key in self._values if key.startswith(section + ".")})

    @property
    def output(self) -> str:
        """The default output format."""
        return str(self.get("defaults.output"))

    @property
    def default_model(self) -> str | None:
        """The model name or alias to use when none is given."""
        return self._text("defaults.model")

    @property
    def default_provider(self) -> str | None:
        """The provider to use when none is given."""
        return self._text("defaults.provider")

    @property
    def default_system(self) -> str | None:
        """The system prompt of new sessions."""
        return self._text("defaults.system")

    @property
    def if_busy(self) -> str:
        """What a turn does when the session is busy: `fail`, `wait`, `wait=DURATION` or `enqueue`."""
        return str(self.get("defaults.if_busy"))

    @property
    def work_concurrency(self) -> int:
        """How many sessions a worker drains at the same time."""
        return int(self.get("work.concurrency"))

    @property
    def work_on_failure(self) -> str:
        """What a failed turn means for its queue: `pause` holds it, `continue` goes on."""
        return str(self.get("work.on_failure"))

    @property
    def max_steps(self) -> int | None:
        """The default bound on model calls per turn."""
        value: int | None = self.get("defaults.max_steps")
        return value

    @property
    def stdin_wait_seconds(self) -> float:
        """How long an open pipe may stay silent."""
        return float(self.get("input.stdin_wait"))

    @property
    def lease_ttl_ms(self) -> int:
        """How long a session lease lives without renewal."""
        return int(self.get("lease.ttl_ms"))

    @property
    def synchronous(self) -> str:
        """`full` or `normal`."""
        return str(self.get("store.synchronous"))

    @property
    def log_prompts(self) -> bool:
        """Whether the log holds what is said to sessions."""
        return bool(self.get("privacy.log_prompts"))

    @property
    def retention_min_age(self) -> float:
        """How many seconds what is settled is kept at least."""
        return float(self.get("retention.min_age"))

    @property
    def retention_max_age(self) -> float | None:
        """After how many seconds without use `gc` may delete a session; None means never."""
        value = self.get("retention.max_age")
        return None if value == NEVER else float(value)

    @property
    def approval(self) -> dict[str, str]:
        """The approval mode of each class of tools."""
        return {name: str(self.get(f"approval.{name}")) for name in SECTIONS["approval"]}

    @property
    def tool_roots(self) -> tuple[str, ...] | None:
        """The directories file tools may use; None means the session's own directory."""
        roots = self.get("tools.roots")
        return None if roots is None else tuple(roots)

    @property
    def allow_outside(self) -> bool:
        """Whether file tools may leave their roots."""
        return bool(self.get("tools.allow_outside"))

    @property
    def trace_file(self) -> str | None:
        """Where turns are traced to; None means they are not."""
        return self._text("trace.file")

    @property
    def trace_level(self) -> str:
        """`standard` or `extended`."""
        return str(self.get("trace.level"))

    @property
    def labels(self) -> dict[str, str]:
        """Labels every new session gets."""
        return {name: str(self.get(f"labels.{name}")) for name in self.names("labels")}

    def model(self, name: str) -> ModelEntry | None:
        """The `[models.NAME]` table, None when there is none; its id defaults to the alias."""
        if name not in self.names("models"):
            return None
        prefix = f"models.{name}."
        fields = (field for field in NAMED_SECTIONS["models"] if field not in ("id", "variant"))
        return ModelEntry(
            name,
            self.get(prefix + "id") or name,
            self.get(prefix + "variant"),
            {field: value for field in fields if (value := self.get(prefix + field)) is not None},
        )

    def provider(self, name: str) -> ProviderEntry | None:
        """The `[providers.NAME]` table, None when there is none."""
        if name not in self.names("providers"):
            return None
        prefix = f"providers.{name}."
        return ProviderEntry(
            name,
            self.get(prefix + "kind") or _DEFAULT_KINDS.get(name, _DEFAULT_KIND),
            self.get(prefix + "base_url"),
            self.get(prefix + "key"),
            dict(self.get(prefix + "options") or {}),
        )

    @property
    def key_files(self) -> tuple[str, ...]:
        """The files that keys of providers come from, as they are written (`file:PATH`)."""
        sources = [str(self.get(f"providers.{name}.key") or "") for name in self.names("providers")]
        return tuple(source[5:].strip() for source in sources if source.startswith("file:"))

    def _text(self, key: str) -> str | None:
        value = self.get(key)
        return str(value) if value else None
