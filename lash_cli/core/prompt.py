"""The system prompt: a template of sections, filled from layers of slots (contract 06 §12).

Layers stack from the outermost in: the host's core layer, the session's own,
the turn's. The last template wins; a slot that resets discards what outer
layers put under it and nothing else. Pure: the same layers always render to the
same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from lash_cli.core.codec import Record
from lash_cli.core.policy import (
    SLOT_ORDER,
    PromptBuiltinEntry,
    PromptContribution,
    PromptEntry,
    PromptLayer,
    PromptSection,
    PromptSlotEntry,
    PromptTextEntry,
)

ASK_TOOL = "ask"


class PromptBuiltins(Record):
    """The texts behind the builtin entries; an empty one says nothing.

    `execution_instructions` are the turn protocol's. `ask_guidance` is the part
    of the core guidance that only holds where the model can ask the user.
    """

    main_agent_intro: str = ""
    execution_instructions: str = ""
    core_guidance: str = ""
    ask_guidance: str = ""


NO_BUILTINS = PromptBuiltins()
STANDARD_BUILTINS = PromptBuiltins(
    main_agent_intro="You are the agent of a lash session. You work for its user, with the tools you are given.",
    core_guidance=(
        "Look before you change anything, and do what was asked, no more.\n"
        "Say what you did and what you could not do; never report work that was not done."
    ),
    ask_guidance="Ask the user when a decision is theirs and cannot be undone.",
)

DEFAULT_TEMPLATE: tuple[PromptSection, ...] = (
    PromptSection((PromptBuiltinEntry("main_agent_intro"), PromptSlotEntry("intro"))),
    PromptSection((PromptBuiltinEntry("execution_instructions"), PromptSlotEntry("execution")), "Execution"),
    PromptSection(
        (PromptBuiltinEntry("core_guidance"), PromptSlotEntry("project_instructions"), PromptSlotEntry("guidance")),
        "Guidance",
    ),
    PromptSection((PromptSlotEntry("runtime_context"), PromptSlotEntry("environment")), "Environment"),
)


def render_prompt(
    layers: Sequence[PromptLayer], *, builtins: PromptBuiltins = NO_BUILTINS, can_ask: bool = False
) -> str:
    """The system prompt of stacked layers, outermost first; "" when nothing is left.

    Contributions are trimmed, empty ones dropped, duplicates removed, and
    ordered by priority, title and content; a titled one is preceded by
    `### title`, a titled section by `## title`, and an empty section is left
    out. A slot the template does not name is not shown. `can_ask` says that the
    model has a tool to ask the user with. Raises `ValueError` for an unknown
    slot.
    """
    slots = _filled(layers)
    template = next((layer.template for layer in reversed(layers) if layer.template is not None), DEFAULT_TEMPLATE)
    sections = [text for section in template if (text := _section(section, slots, builtins, can_ask))]
    return "\n\n".join(sections)


def _filled(layers: Sequence[PromptLayer]) -> dict[str, list[PromptContribution]]:
    """What every slot holds, inherited contributions first."""
    slots: dict[str, list[PromptContribution]] = {slot: [] for slot in SLOT_ORDER}
    for layer in layers:
        for slot, change in layer.slots.items():
            if slot not in slots:
                raise ValueError(f"unknown prompt slot {slot!r}")
            if change.reset:
                slots[slot].clear()
            slots[slot].extend(change.contributions)
    return slots


def _section(
    section: PromptSection, slots: dict[str, list[PromptContribution]], builtins: PromptBuiltins, can_ask: bool
) -> str:
    blocks = [block for entry in section.entries for block in _blocks(entry, slots, builtins, can_ask)]
    if not blocks:
        return ""
    return "\n\n".join([f"## {section.title}", *blocks] if section.title else blocks)


def _blocks(
    entry: PromptEntry, slots: dict[str, list[PromptContribution]], builtins: PromptBuiltins, can_ask: bool
) -> list[str]:
    match entry:
        case PromptTextEntry(content=content):
            return [content.strip()] if content.strip() else []
        case PromptBuiltinEntry(name=name):
            text = getattr(builtins, name)
            if name == "core_guidance" and can_ask:
                text = f"{text}\n{builtins.ask_guidance}"
            return [text.strip()] if text.strip() else []
        case PromptSlotEntry(slot=slot):
            unique = {(c.priority, c.title or "", c.content.strip()) for c in slots[slot] if c.content.strip()}
            return [f"### {title}\n\n{content}" if title else content for _, title, content in sorted(unique)]
