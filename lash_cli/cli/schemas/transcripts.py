"""Shapes of transcripts and the parts of their messages (contract 08 §5.1 `log`).

What only the provider that made it understands is not part of them, and neither are the bytes of attachments.
"""

from __future__ import annotations

from lash_cli.cli.schemas.sessions import Frame
from lash_cli.cli.schemas.shape import Object, Shape, Time
from lash_cli.core.content import ErrorPart, ExternalUrl, OutputPart, ProviderFile, Stored


class InlineWithoutData(Shape, tag="inline", tag_field="source"):
    """An attachment whose bytes are not shown."""

    media_type: str
    label: str | None


class TextPart(Shape, tag="text", tag_field="kind"):
    """User or system text."""

    content: str
    label: str | None


class ProsePart(Shape, tag="prose", tag_field="kind"):
    """Text the model wrote."""

    content: str


class ReasoningPart(Shape, tag="reasoning", tag_field="kind"):
    """Reasoning the model showed."""

    content: str


class ToolCallPart(Shape, tag="tool_call", tag_field="kind"):
    """A call the model made; `input_json` is the text it sent."""

    tool_call_id: str
    tool_name: str
    input_json: str


class ToolResultPart(Shape, tag="tool_result", tag_field="kind"):
    """What the model was told a call returned."""

    tool_call_id: str
    tool_name: str
    content: str
    status: str


class AttachmentPart(Shape, tag="attachment", tag_field="kind"):
    """An attachment."""

    attachment: InlineWithoutData | Stored | ExternalUrl | ProviderFile


class CodePart(Shape, tag="code", tag_field="kind"):
    """A program the model wrote."""

    content: str
    language: str


Part = (
    TextPart
    | ProsePart
    | ReasoningPart
    | ToolCallPart
    | ToolResultPart
    | AttachmentPart
    | CodePart
    | OutputPart
    | ErrorPart
)


class MessageItem(Shape):
    """A committed message. `role`: user, assistant, system or event; `text` is that of its parts, `frame` the agent
    frame it was said in."""

    id: str
    role: str
    at: Time | None
    turn_id: str | None
    frame: str | None
    text: str
    origin: Object | None
    parts: list[Part]


class Transcript(Shape):
    """The committed messages of a session (`lash log`): those of the current frame, with `--frames` those of the frames
    before it too. `cursor`, known with `--since-cursor`, is where to go on."""

    session: str
    session_name: str
    head_revision: int | None
    cursor: str | None
    frames: list[Frame]
    items: list[MessageItem]
