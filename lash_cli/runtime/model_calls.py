"""One model call of a turn: the request, its envelope, and what is shown while it streams (contract 06 §1, 04 §7).

The envelope names the committed prefix and hashes only this turn's messages,
so its cost does not grow with the transcript (design D21). Live text is
correlated per attempt, so a retried attempt is retracted exactly.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from lash_cli.core.activity import (
    AssistantProseDelta,
    ModelAttemptReset,
    ReasoningShown,
    RetryWait,
    TurnEvent,
)
from lash_cli.core.codec import canonical_hash, described, storable
from lash_cli.core.content import Message
from lash_cli.core.effect import LlmCallCommand
from lash_cli.core.llm import (
    AttemptReset,
    FetchAttachment,
    LlmCallResult,
    LlmRequest,
    LlmScope,
    LlmToolSpec,
    OutputSpec,
    ReasoningDelta,
    RetryStatus,
    StreamEvent,
    TerminalReason,
    TextDelta,
    ToolChoice,
    UsageReported,
)
from lash_cli.core.machine_records import EnvironmentSynced
from lash_cli.core.policy import NO_GENERATION, NO_LAYER, Generation, PromptLayer, SessionPolicy
from lash_cli.core.prompt import ASK_TOOL, NO_BUILTINS, PromptBuiltins, render_prompt
from lash_cli.core.tools import ToolContract
from lash_cli.errors import LashError
from lash_cli.runtime.cancellation import FAILURES
from lash_cli.runtime.context import ShownConversation
from lash_cli.runtime.session import ResidentSession
from lash_cli.tools.registry import ResolvedTool
from lash_cli.tools.surface import Surface

_DIGEST_CHARS = 32

Emit = Callable[[TurnEvent, str], Awaitable[None]]


def _digest(value: object) -> str:
    return canonical_hash(value)[:_DIGEST_CHARS]


def _request_id(session_id: str, turn_id: str, iteration: int) -> str:
    """The same for all attempts of a call, also of those after a crash (contract 06 §1)."""
    return f"{session_id}:turn:{turn_id}:llm:{iteration}"


class CallStopped(Exception):
    """A call ended because its turn is to stop: carries its result past the journal, which keeps none. Whoever drives
    the turn again after a crash asks the model again, or is told of the request that stands."""

    def __init__(self, result: LlmCallResult) -> None:
        super().__init__("the call was stopped")
        self.result = result


def is_stopped(result: LlmCallResult) -> bool:
    """Whether a call came to no end of its own."""
    ended = result.error or result.response
    return ended is not None and ended.terminal_reason is TerminalReason.CANCELLED


class ModelEnvironment:
    """What every call of a session shares: system prompt, tool specs and their digest.

    Kept from turn to turn: the sources are asked for their contracts again when
    a turn begins and when the surface changed, but what they say is rendered and
    hashed only when it differs, so a plain turn hashes none of it.
    """

    def __init__(
        self,
        session: ResidentSession,
        policy: SessionPolicy,
        core_prompt: PromptLayer,
        turn_prompt: PromptLayer = NO_LAYER,
        builtins: PromptBuiltins = NO_BUILTINS,
    ) -> None:
        self._session = session
        self._policy = policy
        self._prompt = (core_prompt, turn_prompt, builtins)
        self._surface: Surface | None = None
        self._offered: list[ResolvedTool] = []
        self._contracts: list[ToolContract] | None = None
        self._is_current = False
        self._can_ask = False
        self.system = self._rendered()
        self.tools: tuple[LlmToolSpec, ...] = ()
        self.shape = ""

    @classmethod
    def of(
        cls,
        session: ResidentSession,
        policy: SessionPolicy,
        core_prompt: PromptLayer,
        turn_prompt: PromptLayer = NO_LAYER,
        builtins: PromptBuiltins = NO_BUILTINS,
    ) -> ModelEnvironment:
        """The environment of a turn that begins: the one the session used last, if it was made of the same parts."""
        last = session.model_environment
        if isinstance(last, cls) and last._policy is policy and last._prompt == (core_prompt, turn_prompt, builtins):
            last._is_current = False
            return last
        session.model_environment = made = cls(session, policy, core_prompt, turn_prompt, builtins)
        return made

    def _rendered(self) -> str:
        core_prompt, turn_prompt, builtins = self._prompt
        layers = (core_prompt, self._policy.prompt, turn_prompt)
        return render_prompt(layers, builtins=builtins, can_ask=self._can_ask)

    def synced(self, *, is_strict: bool = False) -> EnvironmentSynced:
        """Bring tools and prompt up to date with the registry; an error when a source of tools fails, which raises when
        that `is_strict`."""
        try:
            self._sync()
        except FAILURES as error:
            if is_strict:
                raise
            # Whatever a source of tools does, its turn has an outcome.
            text = error.message if isinstance(error, LashError) else described(error)
            return EnvironmentSynced(storable(f"the tools cannot be described: {text}"))
        return EnvironmentSynced()

    def _sync(self) -> None:
        """Bring tools and prompt up to date with the registry."""
        registry = self._session.registry
        if registry.surface is not self._surface:
            self._surface = registry.surface
            self._offered = [tool for tool in registry.callable_tools() if tool.manifest.activation == "always"]
            self._contracts = None
            self._is_current = False
        if self._is_current:
            return
        contracts = [tool.contract() for tool in self._offered]
        if contracts != self._contracts:
            self._take(contracts)
            self._contracts = contracts
        self._is_current = True

    def _take(self, contracts: Sequence[ToolContract]) -> None:
        manifests = [tool.manifest for tool in self._offered]
        tools = tuple(
            LlmToolSpec(manifest.name, manifest.description, contract.input_schema, contract.projection)
            for manifest, contract in zip(manifests, contracts, strict=True)
        )
        if self.shape and tools == self.tools:
            return
        self.tools = tools
        can_ask = any(tool.name == ASK_TOOL for tool in tools)
        if can_ask != self._can_ask:
            self._can_ask = can_ask
            self.system = self._rendered()
        model = self._policy.model
        self.shape = _digest((self.system, tools, model.variant, model.limits.output_token_capacity))


class ModelCall:
    """The request and envelope of one call, and the sink that turns its stream into activities."""

    def __init__(
        self,
        session: ResidentSession,
        policy: SessionPolicy,
        environment: ModelEnvironment,
        *,
        turn_id: str,
        iteration: int,
        tail: tuple[Message, ...],
        tools_allowed: bool,
        emit: Emit,
        output: OutputSpec | None = None,
        generation: Generation = NO_GENERATION,
        fetch: FetchAttachment | None = None,
        is_shown: bool,
        shown: ShownConversation,
        digests: list[str],
    ) -> None:
        """`shown` stands for the committed messages; `digests`, of the first messages of `tail`, get those of the
        others."""
        self._emit = emit
        self._row = f"{turn_id}:{iteration}"
        self._attempt = 1
        self._prose: list[str] = []
        self._reasoning: list[str] = []
        self.streamed = False
        shape = environment.shape if tools_allowed else f"{environment.shape}:no-tools"
        if output is not None:
            shape += f":output={_digest(output)}"
        if generation != NO_GENERATION:
            shape += f":generation={_digest(generation)}"
        self.request = LlmRequest(
            model=policy.model,
            messages=shown.messages.with_tail(tail),
            scope=LlmScope(session.session_id, _request_id(session.session_id, turn_id, iteration), session.frame_id),
            system=environment.system,
            tools=environment.tools,
            tool_choice=ToolChoice.AUTO if tools_allowed else ToolChoice.NONE,
            output_token_cap=policy.model.limits.output_token_capacity,
            generation=generation,
            output_spec=output,
            fetch=fetch,
            is_shown=is_shown,
        )
        digests += map(_digest, tail[len(digests) :])
        self.command = LlmCallCommand(
            provider_id=policy.provider_id,
            model=policy.model.id,
            base=shown.base,
            tail=tuple(digests),
            shape=shape,
        )

    async def sink(self, event: StreamEvent) -> None:
        """Show one stream event of the running attempt; not a text that is none."""
        match event:
            case TextDelta(text=str(text), item_id=item_id):
                correlation = item_id or f"{self._row}:{self._attempt}:prose"
                if correlation not in self._prose:
                    self._prose.append(correlation)
                self.streamed = True
                await self._emit(AssistantProseDelta(storable(text)), correlation)
            case ReasoningDelta(text=str(text), item_id=item_id):
                correlation = item_id or f"{self._row}:{self._attempt}:reasoning"
                if correlation not in self._reasoning:
                    self._reasoning.append(correlation)
                await self._emit(ReasoningShown(storable(text)), correlation)
            case AttemptReset():
                reset = ModelAttemptReset(tuple(self._prose), tuple(self._reasoning))
                await self._emit(reset, f"{self._row}:{self._attempt}:reset")
                self._prose.clear()
                self._reasoning.clear()
                self.streamed = False
                self._attempt += 1
            case RetryStatus(wait_ms=wait_ms, attempt=attempt, max_attempts=most, reason=reason):
                await self._emit(RetryWait(wait_ms, attempt, most, reason), f"{self._row}:{self._attempt}:retry")
            case UsageReported():
                pass
