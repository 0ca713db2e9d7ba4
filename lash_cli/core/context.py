"""Keeping a conversation within the model's window: views and compactions (contract 05 §4.6, 01 §11, ADR 0001).

A view is what one turn's requests show instead of the committed messages; it
is never written. A compaction yields the first nodes of a new agent frame; the
frame before it stays as it was. Neither ever edits a message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec

from lash_cli.core.codec import described, reread, storable
from lash_cli.core.content import Message
from lash_cli.core.graph import NodePayload
from lash_cli.core.policy import ModelLimits
from lash_cli.core.usage import PromptUsage
from lash_cli.errors import PluginInvokeError

PREPARE_FAILED = "context_prepare_turn"
COMPACT_FAILED = "context_compact"
# What ends the program wherever it is raised. A cancellation is none: what is called and not awaited is never cancelled
# by another, it has failed.
_ENDS: Final = (KeyboardInterrupt, SystemExit)


class ContextMoment(msgspec.Struct, frozen=True):
    """How full the context is (contract 05 §4.6). `usage` is that of the last model call, None when it is not known; a
    turn that is about to begin is not part of it."""

    limits: ModelLimits
    usage: PromptUsage | None = None

    @property
    def fill(self) -> float | None:
        """The part of the window that was in use after the last model call; None when it is not known."""
        window = self.limits.context_window_tokens
        return None if window is None or self.usage is None else self.usage.context_budget_tokens / window

    @property
    def room(self) -> int | None:
        """The tokens left in the window after the last model call; None when it is not known."""
        window = self.limits.context_window_tokens
        return None if window is None or self.usage is None else window - self.usage.context_budget_tokens


class SummaryRequest(msgspec.Struct, frozen=True):
    """What a model is asked for a summary: the whole of its system prompt and of its task."""

    system: str
    text: str


Summarise = Callable[[SummaryRequest], Awaitable[str | None]]


class CompactionContext(msgspec.Struct, frozen=True):
    """What a compactor works with (contract 05 §4.6). `messages` are those of the current frame. `is_requested` says
    that somebody asked for it, `instructions` what to pay attention to; `summarise` asks the session's own model,
    without tools, and answers None when that failed."""

    messages: Sequence[Message]
    moment: ContextMoment
    summarise: Summarise
    instructions: str | None = None
    is_requested: bool = True


class ContextPlugin(Protocol):
    """One way of keeping the context small (contract 05 §4.6). Plugins are asked in order of `priority`, lowest
    first."""

    @property
    def plugin_id(self) -> str:
        """The id its messages carry as their origin."""
        ...

    @property
    def priority(self) -> int:
        """Its place among others."""
        ...

    def prepare_turn(self, messages: Sequence[Message], moment: ContextMoment) -> Sequence[Message]:
        """What a turn's requests show of the committed messages, in place of them one by one; the very same sequence
        when nothing changes. A function of its arguments, because a re-drive must see the same."""
        ...

    def is_due(self, moment: ContextMoment) -> bool:
        """Whether the context should be compacted before another turn begins."""
        ...

    async def compact(self, context: CompactionContext) -> tuple[NodePayload, ...]:
        """The first nodes of a new frame, whose ids are given to them by whoever asked; empty when there is nothing to
        compact or it failed. When the turn is cancelled so is the plugin."""
        ...


def in_order(plugins: Sequence[ContextPlugin]) -> tuple[ContextPlugin, ...]:
    """The plugins in the order they are asked; equal priorities stay as they were given."""
    return tuple(sorted(plugins, key=lambda plugin: plugin.priority))


def prepared(plugins: Sequence[ContextPlugin], messages: Sequence[Message], moment: ContextMoment) -> Sequence[Message]:
    """What the plugins make of the committed messages together; `messages` itself when none of them changes anything.

    Raises `PluginInvokeError` (`context_prepare_turn`) when a plugin fails, when it shows what is no message, and when
    it adds or drops some: a view stands in for what is committed, one by one.
    """
    shown = messages
    for plugin in plugins:
        try:
            view = plugin.prepare_turn(shown, moment)
            count = len(view)
            if view is not shown and count == len(messages):
                view = [_readable(message, before) for message, before in zip(view, shown, strict=True)]
        except _ENDS:
            raise
        except BaseException as error:
            raise plugin_failed(plugin, PREPARE_FAILED, error) from error
        if count != len(messages):
            raise PluginInvokeError(
                PREPARE_FAILED,
                f"the view of plugin {plugin.plugin_id!r} has {count} messages, not {len(messages)}",
                plugin_id=plugin.plugin_id,
            )
        shown = view
    return shown


def _readable(message: Message, before: Message) -> Message:
    """A message of a view; raises `ValueError` for what a plugin put in place of one that no model could be shown."""
    shown: Message = message if message is before else reread(message, Message)
    return shown


def is_compaction_due(plugins: Sequence[ContextPlugin], moment: ContextMoment) -> bool:
    """Whether a plugin says that the context should be compacted; raises `PluginInvokeError` (`context_prepare_turn`)
    when one fails."""
    for plugin in plugins:
        try:
            if plugin.is_due(moment):
                return True
        except _ENDS:
            raise
        except BaseException as error:
            raise plugin_failed(plugin, PREPARE_FAILED, error) from error
    return False


def plugin_failed(plugin: ContextPlugin, code: str, error: BaseException) -> PluginInvokeError:
    """The failure of a plugin as an error of ours."""
    text = f"context plugin {plugin.plugin_id!r} failed: {described(error)}"
    return PluginInvokeError(code, storable(text), plugin_id=plugin.plugin_id)
