"""Requests of the Gemini wire (contract 06 §9.4): from messages to exact bytes.

The same request always has the same bytes: object keys are sorted and the
encoding of committed messages is cached (`prefix`). What the wire cannot carry
is refused here, before anything is sent. A signature goes back only to the
route that made it. Models that refuse a call without one, which is data of the
host (`ModelCapability.thought_signatures`), get the documented placeholder for
calls they did not make.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lash_cli.core.codec import encode
from lash_cli.core.content import (
    AttachmentPart,
    AttachmentSource,
    Inline,
    Message,
    Part,
    ProviderFile,
    ReasoningPart,
    ReasoningReplay,
    Role,
    Stored,
    ToolCallPart,
    ToolResultPart,
)
from lash_cli.core.llm import GenerationReceipt, JsonObjectOutput, JsonSchemaOutput, LlmRequest, ToolChoice
from lash_cli.core.policy import ModelSpec
from lash_cli.providers.attachments import (
    CARRIED,
    AttachmentBytes,
    carrying_refusal,
    refuse_attachment,
    stand_in,
    unread,
)
from lash_cli.providers.extra_body import checked_extra_body, overlaid
from lash_cli.providers.generation import GenerationWords, Spoken, spoken
from lash_cli.providers.past import SIGNATURE_PLACEHOLDER, attached_words, odd_names, past_name, past_object, words_of
from lash_cli.providers.prefix import Encode, Piece, PrefixCaches
from lash_cli.providers.reasoning import Budget, Effort, Intent, ToggleOff, intent_of
from lash_cli.providers.schemas import project

_CARRIED = CARRIED["google"]
_PLACE = "generationConfig"
_WORDS = GenerationWords("temperature", "seed", "stopSequences", most_stop_sequences=5)
_CALLING_MODES = {ToolChoice.NONE: "NONE", ToolChoice.REQUIRED: "ANY"}
# The shape of ids the assembler made up: they mean nothing to the provider and are not sent.
_MADE_UP_ID = re.compile(r"call_\d+_[0-9a-f]{8}")


class GoogleEncoder:
    """Builds request bodies for one endpoint; holds the encoding of the conversations it has seen."""

    def __init__(
        self,
        endpoint: str,
        *,
        expose_thinking: bool = False,
        replay_reasoning: bool = True,
        credential_scope: str = "",
        extra_body: Mapping[str, Any] | None = None,
        omit_body: Sequence[str] = (),
        attachment_bytes: AttachmentBytes = unread,
    ) -> None:
        """`expose_thinking` asks for thought summaries, and without `replay_reasoning` no signature goes back.

        `credential_scope` names the credential whose uploaded files may be
        referred to. `extra_body` is laid over every body, and what `omit_body`
        names is left out. Raises `ConfigError` when they touch what a call is
        about.
        """
        self._endpoint = endpoint
        self._credential_scope = credential_scope
        self._expose_thinking = expose_thinking
        self._replays_reasoning = replay_reasoning
        self._extra_body = checked_extra_body(extra_body or {}, omit_body)
        self._attachment_bytes = attachment_bytes
        self._caches = PrefixCaches(self._encoding)

    def route(self, model: str) -> str:
        """Who takes a signature back: one model behind one endpoint. Others refuse the request for it."""
        return f"{self._endpoint} {model}"

    def body(self, request: LlmRequest) -> bytes:
        """The request body.

        Raises `LlmTransportError` (validation or unsupported, never retryable)
        for a reasoning selection, an attachment or a schema this wire cannot
        carry.
        """
        said = overlaid(self._options(request), self._extra_body)
        drawn = self._spoken(request).fields
        if drawn:
            said = overlaid(said, {_PLACE: drawn})
        options = encode(said)
        foot = b"]" + (b"," + options[1:] if options != b"{}" else b"}")
        capability = request.model.capability
        needs_signatures = capability is not None and capability.thought_signatures == "required"
        cache = self._caches.of((self.route(request.model.id), needs_signatures, odd_names(request.tools)))
        return cache.join(b'{"contents":[', request.messages, foot)

    def generation_receipt(self, request: LlmRequest) -> GenerationReceipt | None:
        """What becomes of the request's generation intent."""
        return self._spoken(request).receipt

    def _spoken(self, request: LlmRequest) -> Spoken:
        """The generation intent, for the object it has its place in; an endpoint may have that taken away."""
        defaults = self._extra_body.get(_PLACE, {})
        if not isinstance(defaults, Mapping):
            return spoken(request.generation, GenerationWords(), {})
        return spoken(request.generation, _WORDS, defaults)

    def _encoding(self, way: tuple[str, bool, frozenset[str]]) -> Encode:
        """How messages are written for one route, to a model that demands signatures or does not, where these odd names
        are offered."""
        route, needs_signatures, odd = way
        replayed = route if self._replays_reasoning else None
        return _ContentEncoder(
            replayed, needs_signatures, odd, self._credential_scope, self._attachment_bytes
        ).encode_message

    def _options(self, request: LlmRequest) -> dict[str, Any]:
        options: dict[str, Any] = {}
        generation = self._generation(request)
        if generation:
            options[_PLACE] = generation
        if request.system:
            options["systemInstruction"] = {"parts": [{"text": request.system}]}
        if request.tools:
            options["tools"] = [
                {
                    "functionDeclarations": [
                        {
                            "description": tool.description,
                            "name": tool.name,
                            "parametersJsonSchema": project(tool.input_schema, "google", tool.projection),
                        }
                        for tool in request.tools
                    ]
                }
            ]
            if request.tool_choice in _CALLING_MODES:
                mode = _CALLING_MODES[request.tool_choice]
                options["toolConfig"] = {"functionCallingConfig": {"mode": mode}}
        return options

    def _generation(self, request: LlmRequest) -> dict[str, Any]:
        generation: dict[str, Any] = {}
        if request.output_token_cap is not None:
            generation["maxOutputTokens"] = request.output_token_cap
        thinking = self._thinking(request.model)
        if thinking:
            generation["thinkingConfig"] = thinking
        match request.output_spec:
            case JsonObjectOutput():
                generation["responseMimeType"] = "application/json"
            case JsonSchemaOutput(schema=schema, projection=projection):
                generation["responseMimeType"] = "application/json"
                generation["responseJsonSchema"] = project(schema, "google", projection)
        return generation

    def _thinking(self, model: ModelSpec) -> dict[str, Any]:
        """The reasoning selection, and whether thoughts are to be shown; a model that is not known to have any is
        not asked, because it would refuse."""
        intent = intent_of(model)
        thinking = _thinking_words(intent)
        has_thoughts = model.capability is not None and model.capability.reasoning is not None
        if self._expose_thinking and has_thoughts and not isinstance(intent, ToggleOff):
            thinking["includeThoughts"] = True
        return thinking


class _ContentEncoder:
    """Messages as contents of one route; without one no signature goes back."""

    def __init__(
        self,
        route: str | None,
        needs_signatures: bool,
        odd: frozenset[str],
        credential_scope: str,
        attachment_bytes: AttachmentBytes,
    ) -> None:
        self._route = route
        self._needs_signatures = needs_signatures
        self._odd = odd
        self._credential_scope = credential_scope
        self._attachment_bytes = attachment_bytes

    def encode_message(self, message: Message) -> list[Piece]:
        """The contents of one message."""
        return [Piece(b"," + encode(content)) for content in self._contents(message)]

    def _contents(self, message: Message) -> list[dict[str, Any]]:
        """One message becomes none, one or, where results and other parts meet, two."""
        if message.role is Role.ASSISTANT:
            parts = self._said(message)
            return [{"parts": parts, "role": "model"}] if parts else []
        results = [self._result(part) for part in message.parts if isinstance(part, ToolResultPart)]
        blocks = [block for part in message.parts if (block := self._block(part)) is not None]
        contents = [{"parts": parts, "role": "user"} for parts in (results, blocks) if parts]
        return contents or [{"parts": [{"text": ""}], "role": "user"}]

    def _said(self, message: Message) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        needs_placeholder = self._needs_signatures
        for part in message.parts:
            match part:
                case ReasoningPart(content=text, replay=replay):
                    self._put_back(parts, text, self._signature(replay))
                case ToolCallPart():
                    signature = self._signature(part.replay) or (SIGNATURE_PLACEHOLDER if needs_placeholder else "")
                    needs_placeholder = False  # only the first call of an answer is looked at
                    parts.append({"functionCall": self._call(part), **_signed(signature)})
                case _:
                    words = words_of(part)
                    if words:
                        parts.append({"text": words})
        return parts

    @staticmethod
    def _put_back(parts: list[dict[str, Any]], text: str, signature: str) -> None:
        """A thought goes back only with its signature; one without words belongs to the text before it."""
        if not signature:
            return
        last = parts[-1] if parts else {}
        if text:
            parts.append({"text": text, "thought": True, "thoughtSignature": signature})
        elif last.keys() == {"text"}:
            last["thoughtSignature"] = signature
        else:
            parts.append({"text": "", "thoughtSignature": signature})

    def _signature(self, replay: ReasoningReplay | None) -> str:
        """The signature of `replay`, empty when another route made it."""
        is_ours = replay is not None and self._route is not None and replay.provider == self._route
        return (replay.signature or "") if replay is not None and is_ours else ""

    def _call(self, part: ToolCallPart) -> dict[str, Any]:
        name, arguments = past_name(part.tool_name, self._odd), past_object(part.input_json)
        return {"args": arguments, "name": name, **_identified(part.tool_call_id)}

    def _result(self, part: ToolResultPart) -> dict[str, Any]:
        name, member = past_name(part.tool_name, self._odd), "output" if part.status == "success" else "error"
        response = {"name": name, "response": {member: part.content}, **_identified(part.tool_call_id)}
        return {"functionResponse": response}

    def _block(self, part: Part) -> dict[str, Any] | None:
        if isinstance(part, AttachmentPart):
            return self._attachment(part.attachment)
        text = words_of(part)
        return {"text": text} if text else None

    def _attachment(self, source: AttachmentSource) -> dict[str, Any]:
        scope = self._credential_scope
        if carrying_refusal(source, _CARRIED, provider="google", credential_scope=scope) is not None:
            return {"text": stand_in(source)}
        match source:
            case ProviderFile(id=uri):
                return {"fileData": {"fileUri": uri}}
            case Inline(media_type=media_type, data=data, label=label):
                return _bytes_part(media_type, data, label or "attachment")
            case Stored(media_type=media_type, label=label):
                return _bytes_part(media_type, self._attachment_bytes(source), label or source.attachment_ref)
        refuse_attachment(f"this provider cannot be sent the attachment {source!r:.200}")


def _thinking_words(intent: Intent) -> dict[str, Any]:
    """`intent` in the words of `thinkingConfig`, whose documented way to have no thoughts is a budget of none."""
    match intent:
        case None:
            return {}
        case Effort(name=name):
            return {"thinkingLevel": name}
        case Budget(tokens=tokens):
            return {"thinkingBudget": tokens}
        case ToggleOff():
            return {"thinkingBudget": 0}


def _identified(identity: str) -> dict[str, str]:
    """The id of a call and of its result, the same on both; newer models demand the one they gave."""
    return {} if _MADE_UP_ID.fullmatch(identity) else {"id": identity}


def _signed(signature: str) -> dict[str, str]:
    return {"thoughtSignature": signature} if signature else {}


def _bytes_part(media_type: str, data: bytes, name: str) -> dict[str, Any]:
    """Attachment bytes as a part: text as words that name their source, everything else as it is."""
    if media_type.startswith("text/"):
        return {"text": attached_words(data, name)}
    return {"inlineData": {"data": base64.b64encode(data).decode("ascii"), "mimeType": media_type}}
