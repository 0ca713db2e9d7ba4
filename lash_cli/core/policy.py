"""Which model a session talks to, within which limits and with which prompt (contract 01 §3, 06 §4 and §12).

The effective policy is resolved once, at open or by `configure`; a turn, a
pending input and a queue row never carry a model. Model abilities are data the
host supplies, never guessed from a name.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from lash_cli.core.codec import Record


class ProviderDefault(Record, tag="provider_default", tag_field="kind"):
    """Ask for nothing; the provider decides."""


class ReasoningDisabled(Record, tag="disabled", tag_field="kind"):
    """Ask for no reasoning."""


class ReasoningEffort(Record, tag="effort", tag_field="kind"):
    """Ask for a named effort."""

    effort: str


ReasoningSelection = ProviderDefault | ReasoningDisabled | ReasoningEffort


class ReasoningCapability(Record):
    """What a model accepts as a reasoning selection (contract 06 §4)."""

    efforts: tuple[str, ...] = ()
    default_effort: str | None = None
    aliases: dict[str, str] = {}
    encoding: str = "effort"
    budgets: dict[str, int] = {}
    disable: str | None = None
    mandatory: bool = False


class ModelCapability(Record):
    """Host-supplied model abilities; None means unknown, and unknown asks for nothing.

    `thought_signatures="required"` marks a model that refuses a conversation
    with calls it did not sign (contract 06 §9.4).
    """

    reasoning: ReasoningCapability | None = None
    cache_control: Literal["anthropic", "gemini"] | None = None
    stream_termination: Literal["require", "tolerate_eof"] | None = None
    thought_signatures: Literal["required"] | None = None


class ModelLimits(Record):
    """Context window and answer size in tokens; None means unknown. Zero and below are refused."""

    context_window_tokens: int | None = None
    output_token_capacity: int | None = None

    def __post_init__(self) -> None:
        for name in ("context_window_tokens", "output_token_capacity"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")


class ModelSpec(Record):
    """A model as the host describes it. `id` goes on the wire and has no white space."""

    id: str
    variant: ReasoningSelection = ProviderDefault()
    limits: ModelLimits = ModelLimits()
    capability: ModelCapability | None = None

    def __post_init__(self) -> None:
        if not self.id or any(character.isspace() for character in self.id):
            raise ValueError(f"model id must be non-empty and free of white space, got {self.id!r}")


PromptSlot = Literal["intro", "execution", "guidance", "project_instructions", "runtime_context", "environment"]
SLOT_ORDER: tuple[PromptSlot, ...] = (
    "intro",
    "execution",
    "guidance",
    "project_instructions",
    "runtime_context",
    "environment",
)


class PromptContribution(Record):
    """A piece of system prompt put under one slot."""

    slot: PromptSlot
    content: str
    priority: int = 0
    title: str | None = None


class PromptSlotLayer(Record):
    """One layer's change to one slot: `reset` discards what outer layers put there."""

    contributions: tuple[PromptContribution, ...] = ()
    reset: bool = False


class PromptLayer(Record):
    """One layer of the prompt (core, session or turn); empty means no opinion."""

    slots: dict[str, PromptSlotLayer] = {}

    @property
    def is_empty(self) -> bool:
        """Whether the layer says nothing at all."""
        return not self.slots


class SessionPolicy(Record):
    """The resolved policy of a session. `max_turns` bounds model iterations inside one turn."""

    model: ModelSpec
    provider_id: str
    session_id: str | None = None
    autonomous: bool = False
    max_turns: int | None = None
    prompt: PromptLayer = PromptLayer()


class PersistedSessionConfig(Record):
    """What of the policy reaches the head."""

    provider_id: str
    model: ModelSpec
    max_turns: int | None = None
    prompt: PromptLayer | None = None


class SessionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller wants changed at open; unset fields inherit (contract 01 §3).

    `inherit="core"` takes unset fields from the host policy, so the host wins
    over what is stored. `inherit="stored"` takes them from the stored session
    first: the choice of a command line, where each call is a new host.
    `max_turns=None` clears the limit, which is different from leaving it unset.
    """

    inherit: Literal["core", "stored"] = "core"
    provider_id: str | UnsetType = UNSET
    model: ModelSpec | UnsetType = UNSET
    max_turns: int | UnsetType | None = UNSET
    prompt: PromptLayer | UnsetType = UNSET

    def resolve_against(self, base: SessionPolicy, stored: PersistedSessionConfig | None = None) -> SessionPolicy:
        """The policy of this open: the spec over the stored config (if `inherit="stored"`) over `base`."""
        merged: dict[str, Any] = {}
        if self.inherit == "stored" and stored is not None:
            merged = {"provider_id": stored.provider_id, "model": stored.model, "max_turns": stored.max_turns}
            if stored.prompt is not None:
                merged["prompt"] = stored.prompt
        for name in ("provider_id", "model", "max_turns", "prompt"):
            value = getattr(self, name)
            if value is not UNSET:
                merged[name] = value
        policy = msgspec.structs.replace(base, **merged)
        return msgspec.structs.replace(policy, provider_id=policy.provider_id.strip())


def persisted_config(policy: SessionPolicy) -> PersistedSessionConfig:
    """The part of `policy` that is stored with the head."""
    return PersistedSessionConfig(
        provider_id=policy.provider_id, model=policy.model, max_turns=policy.max_turns, prompt=policy.prompt
    )


class SessionConfigPatch(msgspec.Struct, frozen=True, kw_only=True):
    """A change to a live session (contract 01 §4.6); unset fields stay as they are."""

    provider_id: str | UnsetType = UNSET
    model: ModelSpec | UnsetType = UNSET
    max_turns: int | UnsetType | None = UNSET
    prompt: PromptLayer | UnsetType = UNSET

    def apply(self, policy: SessionPolicy) -> SessionPolicy:
        """`policy` with the set fields replaced; the provider id is trimmed, as at open."""
        changes = {
            name: getattr(self, name)
            for name in ("provider_id", "model", "max_turns", "prompt")
            if getattr(self, name) is not UNSET
        }
        patched = msgspec.structs.replace(policy, **changes)
        return msgspec.structs.replace(patched, provider_id=patched.provider_id.strip())


def render_prompt(layers: tuple[PromptLayer, ...], contributions: tuple[PromptContribution, ...] = ()) -> str:
    """The system prompt of stacked layers, outermost first (contract 06 §12).

    A slot layer with `reset` discards what outer layers put under that slot
    only. Contributions are trimmed, empty ones dropped, duplicates removed,
    and ordered by slot, priority, title and content. A titled one is preceded
    by `### title`. Returns "" when nothing is left. Raises `ValueError` for an
    unknown slot.
    """
    slots: dict[str, list[PromptContribution]] = {slot: [] for slot in SLOT_ORDER}
    for layer in layers:
        for slot, change in layer.slots.items():
            if slot not in slots:
                raise ValueError(f"unknown prompt slot {slot!r}")
            if change.reset:
                slots[slot].clear()
            slots[slot].extend(change.contributions)
    for contribution in contributions:
        if contribution.slot not in slots:
            raise ValueError(f"unknown prompt slot {contribution.slot!r}")
        slots[contribution.slot].append(contribution)
    blocks: list[str] = []
    for slot in SLOT_ORDER:
        unique = {(c.priority, c.title or "", c.content.strip()) for c in slots[slot] if c.content.strip()}
        for _, title, content in sorted(unique):
            blocks.append(f"### {title}\n\n{content}" if title else content)
    return "\n\n".join(blocks)


def session_prompt(text: str) -> PromptLayer:
    """A layer whose only content is `text` in the intro slot: what `lash open --system` sets."""
    return PromptLayer(slots={"intro": PromptSlotLayer((PromptContribution("intro", text),), reset=True)})
