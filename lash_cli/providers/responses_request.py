"""Requests of the Responses wire (contract 06 §9.1): from messages to exact bytes.

The wire is used without state on the provider's side: nothing is stored there,
and encrypted reasoning travels with the conversation, back to its own route
only. The same request always has the same bytes; the items of committed
messages are encoded once (`prefix`). What the wire cannot carry is refused
here, before anything is sent.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from lash_cli.core.codec import encode, sha256_hex
from lash_cli.core.content import (
    AttachmentPart,
    AttachmentSource,
    ExternalUrl,
    Inline,
    Message,
    Part,
    ProsePart,
    ProviderFile,
    ReasoningPart,
    Role,
    Stored,
    ToolCallPart,
    ToolResultPart,
)
from lash_cli.core.llm import GenerationReceipt, JsonObjectOutput, JsonSchemaOutput, LlmRequest
from lash_cli.core.media import is_text
from lash_cli.providers.attachments import (
    CARRIED,
    OPENAI_FILES,
    AttachmentBytes,
    carrying_refusal,
    stand_in,
    unread,
)
from lash_cli.providers.caching import prompt_cache_fields
from lash_cli.providers.generation import GenerationWords
from lash_cli.providers.openai_dialect import NO_ANSWER, OPENAI, OpenAiDialect
from lash_cli.providers.past import attached_words, odd_names, past_arguments, past_name, system_words, words_of
from lash_cli.providers.prefix import Encode, Frame, Piece, PrefixCaches
from lash_cli.providers.reasoning import intent_of, reasoning_object
from lash_cli.providers.schemas import project

#: What the API takes as the id of an item or of a call.
MAX_ID_CHARS = 64
_DIGEST_CHARS = 16
_CARRIED = CARRIED["openai_responses"]
_FRAMES = {"user": Frame(b',{"content":[', b'],"role":"user","type":"message"}'), "results": Frame(joint=b"")}
#: Behind the results of tools Mistral refuses a user; the model has said nothing that there would be an item of.
_NO_ANSWER = {"results": b"," + encode({"content": NO_ANSWER, "role": "assistant", "type": "message"})}
_MISTRAL_FRAMES = _FRAMES | {"user": _FRAMES["user"]._replace(behind=_NO_ANSWER)}
# It has neither a seed nor stop sequences.
_WORDS = GenerationWords("temperature")


class ResponsesEncoder:
    """Builds request bodies for one endpoint; holds the encoding of the conversations it has seen."""

    def __init__(
        self,
        endpoint: str,
        *,
        credential_scope: str = "",
        expose_thinking: bool = False,
        dialect: OpenAiDialect = OPENAI,
        attachment_bytes: AttachmentBytes = unread,
    ) -> None:
        """`credential_scope` names the credential whose uploaded files may be referred to, and whose encrypted
        reasoning may go back.

        Raises `ConfigError` for an `extra_body` that would change what a call is about.
        """
        self._endpoint = endpoint
        self._credential_scope = credential_scope
        self._expose_thinking = expose_thinking
        self.dialect = dialect.checked()
        self._attachment_bytes = attachment_bytes
        is_mistral = dialect.conversation == "mistral"
        self._caches = PrefixCaches(self._encoding, _MISTRAL_FRAMES if is_mistral else _FRAMES)

    def route(self, model: str) -> str:
        """Who can read encrypted reasoning again: one model behind one endpoint of this wire, under one credential."""
        return " ".join(filter(None, (f"{self._endpoint}/responses", model, self._credential_scope)))

    def body(self, request: LlmRequest) -> bytes:
        """The request body.

        Raises `LlmTransportError` (validation or unsupported, never retryable)
        for a reasoning selection, a schema or an attachment this wire cannot carry.
        """
        options = self.dialect.encoded(self._options(request), request, _WORDS)
        cache = self._caches.of((self.route(request.model.id), odd_names(request.tools)))
        return cache.join(b'{"input":[', request.messages, b"]," + options[1:])

    def generation_receipt(self, request: LlmRequest) -> GenerationReceipt | None:
        """What becomes of the request's generation intent."""
        return self.dialect.spoken(request, _WORDS).receipt

    def _encoding(self, way: tuple[str, frozenset[str]]) -> Encode:
        """How messages are written for one route, where these odd names are offered; a session that changes its model
        starts a new one."""
        return _ItemEncoder(*way, self.dialect, self._credential_scope, self._attachment_bytes).encode_message

    def _options(self, request: LlmRequest) -> dict[str, Any]:
        options: dict[str, Any] = {
            "model": request.model.id,
            "store": False,
            "stream": request.stream,
            "text": {"verbosity": "medium"} | self._text_format(request),
        }
        instructions = "\n\n".join(system_words(request))
        if instructions:
            options["instructions"] = instructions
        options |= self._reasoning_options(request)
        if request.output_token_cap is not None:
            options["max_output_tokens"] = request.output_token_cap
        if request.tools:
            options["parallel_tool_calls"] = True
            options["tool_choice"] = request.tool_choice.value
            options["tools"] = self._tools(request)
        return options | prompt_cache_fields(request, self.dialect.cache_retention)

    def _tools(self, request: LlmRequest) -> list[dict[str, Any]]:
        """`strict` is always said: this wire makes schemas strict by itself where nothing is said."""
        return [
            {
                "description": tool.description,
                "name": tool.name,
                "parameters": self.dialect.parameters(tool),
                "strict": self.dialect.strict_tools,
                "type": "function",
            }
            for tool in request.tools
        ]

    def _text_format(self, request: LlmRequest) -> dict[str, Any]:
        match request.output_spec:
            case JsonSchemaOutput(name=name, schema=schema, strict=strict, projection=projection):
                shown = project(schema, "openai_structured_output", projection)
                return {"format": {"name": name, "schema": shown, "strict": strict, "type": "json_schema"}}
            case JsonObjectOutput():
                return {"format": {"type": "json_object"}}
            case None:
                return {}

    def _reasoning_options(self, request: LlmRequest) -> dict[str, Any]:
        """The selection, and for a model known to reason its encrypted reasoning: others refuse to be asked for it."""
        reasoning = reasoning_object(intent_of(request.model), self.dialect.reasoning, "responses")
        if request.model.capability is None or request.model.capability.reasoning is None:
            return {"reasoning": reasoning} if reasoning else {}
        if self._expose_thinking:
            reasoning["summary"] = "auto"
        include = {"include": ["reasoning.encrypted_content"]} if self.dialect.replay_reasoning else {}
        return include | ({"reasoning": reasoning} if reasoning else {})


class _ItemEncoder:
    """Messages as input items of one route."""

    def __init__(
        self,
        route: str,
        odd: frozenset[str],
        dialect: OpenAiDialect,
        credential_scope: str,
        attachment_bytes: AttachmentBytes,
    ) -> None:
        self._route = route
        self._odd = odd
        self._dialect = dialect
        self._credential_scope = credential_scope
        self._attachment_bytes = attachment_bytes

    def encode_message(self, message: Message) -> list[Piece]:
        """The items of one message.

        What the system says later is the user's, and what the user says in neighbouring messages is one: servers that
        follow this wire give the items to the template of their model, and many of those refuse, for ever, a system
        message behind others and a user that speaks twice.
        """
        if message.role is Role.ASSISTANT:
            return [_item(item) for item in self._assistant(message)]
        results = [_item(self._result(part), "results") for part in message.parts if isinstance(part, ToolResultPart)]
        blocks = [block for part in message.parts if (block := self._block(part)) is not None]
        if not blocks and results:
            return results
        content = b",".join(map(encode, blocks or [_input_text("")]))
        return [*results, Piece(content, frame="user", told_apart=message.role is Role.SYSTEM)]

    def _assistant(self, message: Message) -> list[dict[str, Any]]:
        """What the model said, in its order; neighbouring text of one wire item is one item again."""
        is_replayed = self._is_replayed(message.parts)
        items: list[dict[str, Any]] = []
        for position, part in enumerate(message.parts):
            match part:
                case ReasoningPart(replay=replay) if is_replayed and replay is not None:
                    items.append(_reasoning(replay.item_id, replay.summary, replay.encrypted_content))
                case ToolCallPart():
                    items.append(self._call(part, self._own_id(part) if is_replayed else None))
                case _ if text := words_of(part):
                    meta = self._own_meta(part)
                    own = self._own_id(part) if is_replayed else None
                    said = _output_text(text, meta)
                    last = items[-1] if items else None
                    if last is not None and last["type"] == "message" and _belongs(own, meta, last):
                        last["content"].append(said)
                    else:
                        unknown = f"msg_lash_{sha256_hex(message.id.encode())[:_DIGEST_CHARS]}_{position}"
                        items.append(_said(own or unknown, said, meta))
        return items

    def _is_replayed(self, parts: tuple[Part, ...]) -> bool:
        """Whether the reasoning of a message goes back, and with it the ids of what followed it.

        The API takes a reasoning item only in front of the item it led to, by
        its id, and an item with an id only behind the reasoning that led to it.
        So it is all of a message or nothing: every reasoning part is of this
        route and stands before a part with an id of this route.
        """
        found = False
        pending = False
        for part in parts:
            if isinstance(part, ReasoningPart):
                replay = part.replay
                if replay is None or replay.provider != self._route or not replay.encrypted_content:
                    return False
                if len(replay.item_id or "") > MAX_ID_CHARS:
                    return False
                found = pending = True
            elif pending:
                if self._own_id(part) is None:
                    return False
                pending = False
        return self._dialect.replay_reasoning and found and not pending

    def _own_id(self, part: Part) -> str | None:
        """The id this route gave a part, if it did and takes it back: some give longer ones than they take."""
        if isinstance(part, ToolCallPart):
            own = part.replay.item_id if part.replay and part.replay.provider == self._route else None
        else:
            own = self._own_meta(part).get("item_id")
        return own if own and len(own) <= MAX_ID_CHARS else None

    def _own_meta(self, part: Part) -> Mapping[str, Any]:
        """What this route said about a text beside its words."""
        meta = part.response_meta if isinstance(part, ProsePart) else None
        return meta if meta and meta.get("provider") == self._route else {}

    def _call(self, part: ToolCallPart, identity: str | None) -> dict[str, Any]:
        named = {"id": identity} if identity else {}
        return {
            "arguments": past_arguments(part.input_json),
            "call_id": self._dialect.call_id(part.tool_call_id, MAX_ID_CHARS),
            **named,
            "name": past_name(part.tool_name, self._odd),
            "status": "completed",
            "type": "function_call",
        }

    def _result(self, part: ToolResultPart) -> dict[str, Any]:
        return {
            "call_id": self._dialect.call_id(part.tool_call_id, MAX_ID_CHARS),
            "output": part.content,
            "type": "function_call_output",
        }

    def _block(self, part: Part) -> dict[str, Any] | None:
        if isinstance(part, AttachmentPart):
            return self._attachment(part.attachment)
        text = words_of(part)
        return None if text is None else _input_text(text)

    def _attachment(self, source: AttachmentSource) -> dict[str, Any]:
        scope = self._credential_scope
        if carrying_refusal(source, _CARRIED, provider="openai_responses", credential_scope=scope) is not None:
            return _input_text(stand_in(source))
        match source:
            case ExternalUrl(media_type=media_type, url=url) if media_type in _CARRIED.images:
                return {"detail": "auto", "image_url": url, "type": "input_image"}
            case ExternalUrl(url=url):
                return {"file_url": url, "type": "input_file"}
            case Inline(media_type=media_type, data=data, label=label):
                return _bytes_block(media_type, data, label)
            case Stored(media_type=media_type, label=label):
                return _bytes_block(media_type, self._attachment_bytes(source), label)
            case ProviderFile(id=file_id):
                return {"file_id": file_id, "type": "input_file"}


def _bytes_block(media_type: str, data: bytes, label: str | None) -> dict[str, Any]:
    """Attachment bytes as the block their media type asks for; kinds of text this wire has no file for are words."""
    if media_type not in OPENAI_FILES and is_text(media_type):
        return _input_text(attached_words(data, label))
    url = f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
    if media_type in _CARRIED.images:
        return {"detail": "auto", "image_url": url, "type": "input_image"}
    return {"file_data": url, "filename": label or f"attachment.{OPENAI_FILES[media_type]}", "type": "input_file"}


def _item(item: dict[str, Any], frame: str = "") -> Piece:
    return Piece(b"," + encode(item), frame=frame)


def _input_text(text: str) -> dict[str, Any]:
    return {"text": text, "type": "input_text"}


def _output_text(text: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the model wrote, with the annotations its route made."""
    return {"annotations": meta.get("annotations", []), "text": text, "type": "output_text"}


def _belongs(own_id: str | None, meta: Mapping[str, Any], item: dict[str, Any]) -> bool:
    """Whether a text goes into the message item before it: nothing says that it was another one."""
    return own_id in (None, item["id"]) and meta.get("phase") in (None, item.get("phase"))


def _said(identity: str, text: dict[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    phase = {"phase": meta["phase"]} if meta.get("phase") else {}
    head = {"content": [text], "id": identity, "role": "assistant", "status": "completed", "type": "message"}
    return head | phase


def _reasoning(identity: str | None, summary: tuple[str, ...], encrypted: str | None) -> dict[str, Any]:
    named = {"id": identity} if identity else {}
    texts = [{"text": text, "type": "summary_text"} for text in summary]
    return {"encrypted_content": encrypted, **named, "summary": texts, "type": "reasoning"}
