"""Which model a session talks to, within which limits and with which prompt (contract 01 §3, 06 §4 and §12).

The effective policy is resolved once, at open or by `configure`; a turn, a
pending input and a queue row never carry a model. Model abilities are data the
host supplies, never guessed from a name.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from lash_cli.core.codec import Record, reread
from lash_cli.errors import UsageError


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
    """A model as the host describes it (contract 01 §3). `id` goes on the wire and has no white space."""

    id: str
    variant: ReasoningSelection = ProviderDefault()
    limits: ModelLimits = ModelLimits()
    capability: ModelCapability | None = None

    def __post_init__(self) -> None:
        if not self.id or any(character.isspace() for character in self.id):
            raise ValueError(f"model id must be non-empty and free of white space, got {self.id!r}")


MAX_SEED = 2**63 - 1


class Generation(Record):
    """How an answer is to be drawn (contract 06 §4).

    None leaves an option to the provider, and an empty `stop_sequences` takes
    inherited ones away.
    """

    temperature: float | None = None
    seed: int | None = None
    stop_sequences: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be at least 0, got {self.temperature:g}")
        if self.seed is not None and not -MAX_SEED <= self.seed <= MAX_SEED:
            raise ValueError(f"seed must fit into 64 bits, got {self.seed}")
        if not all(self.stop_sequences or ()):
            raise ValueError("a stop sequence must not be empty")

    def overlaid_by(self, inner: Generation) -> Generation:
        """This intent with what `inner` says in its place."""
        if inner == NO_GENERATION:
            return self
        said = {name: value for name in inner.__struct_fields__ if (value := getattr(inner, name)) is not None}
        return msgspec.structs.replace(self, **said)


NO_GENERATION = Generation()


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


PromptBuiltinName = Literal["main_agent_intro", "execution_instructions", "core_guidance"]


class PromptTextEntry(Record, tag="text", tag_field="type"):
    """Words of the template itself."""

    content: str


class PromptBuiltinEntry(Record, tag="builtin", tag_field="type"):
    """A text the host or the turn protocol brings."""

    name: PromptBuiltinName


class PromptSlotEntry(Record, tag="slot", tag_field="type"):
    """Where the contributions of a slot go."""

    slot: PromptSlot


PromptEntry = PromptTextEntry | PromptBuiltinEntry | PromptSlotEntry


class PromptSection(Record):
    """Entries that belong together, under a title if they have one."""

    entries: tuple[PromptEntry, ...] = ()
    title: str | None = None


class PromptLayer(Record):
    """One layer of the prompt (core, session or turn); empty means no opinion (contract 06 §12). `core.prompt` renders
    them."""

    slots: dict[str, PromptSlotLayer] = {}
    template: tuple[PromptSection, ...] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the layer says nothing at all."""
        return not self.slots and self.template is None

    def prompt_template(self, template: tuple[PromptSection, ...] | None) -> PromptLayer:
        """This layer with a template of its own, or with None the inherited one."""
        return msgspec.structs.replace(self, template=template)

    def prompt_contribution(self, contribution: PromptContribution) -> PromptLayer:
        """This layer with one more contribution beside what its slot holds and inherits."""
        before = self.slots.get(contribution.slot, PromptSlotLayer())
        return self._with(contribution.slot, PromptSlotLayer((*before.contributions, contribution), before.reset))

    def replace_prompt_slot(self, slot: PromptSlot, *contributions: PromptContribution) -> PromptLayer:
        """This layer with nothing but `contributions` under `slot`, whatever is inherited there."""
        return self._with(slot, PromptSlotLayer(contributions, reset=True))

    def clear_prompt_slot(self, slot: PromptSlot) -> PromptLayer:
        """This layer with nothing under `slot`."""
        return self.replace_prompt_slot(slot)

    def _with(self, slot: PromptSlot, change: PromptSlotLayer) -> PromptLayer:
        """Contributions belong to the slot they are put under, whatever they say of themselves."""
        if slot not in SLOT_ORDER:
            raise ValueError(f"unknown prompt slot {slot!r}")
        own = tuple(
            part if part.slot == slot else msgspec.structs.replace(part, slot=slot) for part in change.contributions
        )
        return msgspec.structs.replace(
            self, slots={**self.slots, slot: msgspec.structs.replace(change, contributions=own)}
        )


NO_LAYER = PromptLayer()


class SessionPolicy(Record):
    """The resolved policy of a session (contract 01 §3). `max_turns` bounds model iterations inside one turn."""

    model: ModelSpec
    provider_id: str
    session_id: str | None = None
    autonomous: bool = False
    max_turns: int | None = None
    prompt: PromptLayer = PromptLayer()
    generation: Generation = NO_GENERATION


class PersistedSessionConfig(Record):
    """What of the policy reaches the head."""

    provider_id: str
    model: ModelSpec
    max_turns: int | None = None
    prompt: PromptLayer | None = None
    generation: Generation = NO_GENERATION


class PolicyChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What of a session's policy can be changed; an unset field changes nothing."""

    provider_id: str | UnsetType = UNSET
    model: ModelSpec | UnsetType = UNSET
    max_turns: int | UnsetType | None = UNSET
    prompt: PromptLayer | UnsetType = UNSET
    generation: Generation | UnsetType = UNSET

    def chosen(self) -> dict[str, Any]:
        """The fields that are set."""
        return {name: value for name in PolicyChoice.__struct_fields__ if (value := getattr(self, name)) is not UNSET}

    def over(self, policy: SessionPolicy) -> SessionPolicy:
        """`policy` with the set fields replaced, and its provider id trimmed. Raises `UsageError` as
        `readable_policy` and `require_iterations` do."""
        require_iterations(self.max_turns)
        policy = readable_policy(msgspec.structs.replace(policy, **self.chosen()))
        return msgspec.structs.replace(policy, provider_id=policy.provider_id.strip())


class SessionSpec(PolicyChoice, frozen=True, kw_only=True):
    """What a caller wants changed at open; unset fields inherit (contract 01 §3).

    `inherit="core"` takes unset fields from the host policy, so the host wins
    over what is stored. `inherit="stored"` takes them from the stored session
    first: the choice of a command line, where each call is a new host. The
    prompt is the session's own in either case: unset, the stored one stays, and
    a stored empty one is a choice too (contract 06 §12). `max_turns=None`
    clears the limit, which is different from leaving it unset. A `generation`
    replaces the inherited one as a whole.
    """

    inherit: Literal["core", "stored"] = "core"

    def prompt_template(self, template: tuple[PromptSection, ...] | None) -> SessionSpec:
        """See `PromptLayer.prompt_template`; it and its siblings build the session's own layer from an empty one."""
        return self._with_prompt(self._layer.prompt_template(template))

    def prompt_contribution(self, contribution: PromptContribution) -> SessionSpec:
        """See `PromptLayer.prompt_contribution`."""
        return self._with_prompt(self._layer.prompt_contribution(contribution))

    def replace_prompt_slot(self, slot: PromptSlot, *contributions: PromptContribution) -> SessionSpec:
        """See `PromptLayer.replace_prompt_slot`."""
        return self._with_prompt(self._layer.replace_prompt_slot(slot, *contributions))

    def clear_prompt_slot(self, slot: PromptSlot) -> SessionSpec:
        """See `PromptLayer.clear_prompt_slot`."""
        return self._with_prompt(self._layer.clear_prompt_slot(slot))

    @property
    def _layer(self) -> PromptLayer:
        return NO_LAYER if isinstance(self.prompt, UnsetType) else self.prompt

    def _with_prompt(self, prompt: PromptLayer) -> SessionSpec:
        return msgspec.structs.replace(self, prompt=prompt)

    def resolve_against(self, base: SessionPolicy, stored: PersistedSessionConfig | None = None) -> SessionPolicy:
        """The policy of this open: the spec over the stored config (if `inherit="stored"`) over `base`. Raises
        `UsageError` as `readable_policy` does."""
        if self.inherit not in ("core", "stored"):
            raise UsageError(f"a spec inherits from 'core' or 'stored', not {self.inherit!r}", code="policy_invalid")
        inherited: dict[str, Any] = {}
        if self.inherit == "stored" and stored is not None:
            inherited = {name: getattr(stored, name) for name in ("provider_id", "model", "max_turns", "generation")}
        if stored is not None and stored.prompt is not None:
            inherited["prompt"] = stored.prompt
        return self.over(msgspec.structs.replace(base, **inherited))


def persisted_config(policy: SessionPolicy) -> PersistedSessionConfig:
    """The part of `policy` that is stored with the head."""
    return PersistedSessionConfig(
        provider_id=policy.provider_id,
        model=policy.model,
        max_turns=policy.max_turns,
        prompt=policy.prompt,
        generation=policy.generation,
    )


def readable_policy(policy: SessionPolicy) -> SessionPolicy:
    """`policy`, of which what is stored can be read again (`codec.reread`); raises `UsageError` (`policy_invalid`)."""
    try:
        reread(persisted_config(policy), PersistedSessionConfig)
    except ValueError as error:
        said = f"that is no policy a session can have: {error}"
        raise UsageError(said, code="policy_invalid", hint=_how_made(policy.model, policy.prompt)) from error
    return policy


def _how_made(model: object, prompt: object) -> str | None:
    """How what is most often given as a text is made of one."""
    if not isinstance(model, ModelSpec):
        return "a model is made by ModelSpec('its-name')"
    if not isinstance(prompt, PromptLayer):
        return "a prompt is made by PromptLayer().prompt_contribution(PromptContribution('intro', 'the text'))"
    return None


def require_iterations(max_turns: object) -> None:
    """Raise `UsageError` (`policy_invalid`) for a limit under which no turn could ask a model."""
    # One that is no finite number would be stored as none.
    if isinstance(max_turns, float) or (isinstance(max_turns, int) and max_turns < 1):
        said = f"a turn needs at least one model iteration, and a whole number of them, not {max_turns}"
        raise UsageError(said, code="policy_invalid")


class SessionConfigPatch(PolicyChoice, frozen=True, kw_only=True):
    """A change to a live session (contract 01 §4.6); unset fields stay as they are."""

    def apply(self, policy: SessionPolicy) -> SessionPolicy:
        """`policy` as it is changed, trimmed and raised as at open."""
        return self.over(policy)


def session_prompt(text: str) -> PromptLayer:
    """A layer whose only content is `text` in the intro slot: what `lash open --system` sets."""
    return PromptLayer().replace_prompt_slot("intro", PromptContribution("intro", text))
