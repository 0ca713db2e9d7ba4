"""What a peer that speaks our envelopes can do wrong (contract 04 §6).

Part of the tree in `lash_cli.errors`, where every name is found; apart from it, because hardly any command meets a peer
(design D16).
"""

from __future__ import annotations

from lash_cli.errors import UsageError


class RemoteProtocolError(UsageError):
    """What a peer sent is not an envelope of our version (contract 04 §6)."""

    default_code = "remote_protocol"
    terminal = True


class UnsupportedProtocolVersion(RemoteProtocolError):
    """The peer speaks another version; versions must be equal."""

    def __init__(self, actual: int, expected: int) -> None:
        super().__init__(
            f"protocol version {actual} is not supported, this program speaks {expected}",
            details={"actual": actual, "expected": expected},
        )
        self.actual = actual
        self.expected = expected


class MismatchedNestedProtocolVersion(RemoteProtocolError):
    """An envelope inside another one carries another version."""

    def __init__(self, parent: str, child: str, parent_version: int, child_version: object) -> None:
        super().__init__(
            f"{parent} has version {parent_version}, the {child} in it {child_version}",
            details={"parent": parent, "child": child, "parent_version": parent_version},
        )


class MissingRequiredField(RemoteProtocolError):
    """A required field is missing or blank."""

    def __init__(self, type_name: str, field: str) -> None:
        super().__init__(f"{type_name}.{field} is required", details={"type_name": type_name, "field": field})
        self.type_name = type_name
        self.field = field


class InvalidEnvelope(RemoteProtocolError):
    """An envelope does not have the shape of its type."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(f"{type_name}: {message}", details={"type_name": type_name})
        self.type_name = type_name


class InvalidAttachmentData(RemoteProtocolError):
    """The bytes of an attachment are not what they say they are; `attachment` is its place among the items."""

    def __init__(self, attachment: str, message: str) -> None:
        super().__init__(f"attachment {attachment}: {message}", details={"attachment": attachment})


class InvalidAttachmentRef(RemoteProtocolError):
    """A reference to an attachment cannot be used."""

    def __init__(self, attachment: str, message: str) -> None:
        super().__init__(f"attachment {attachment}: {message}", details={"attachment": attachment})


class InvalidToolGrant(RemoteProtocolError):
    """A tool cannot be granted like this."""

    def __init__(self, tool_name: str, message: str) -> None:
        super().__init__(f"tool {tool_name}: {message}", details={"tool_name": tool_name})


class MissingToolBinding(RemoteProtocolError):
    """A granted tool is not bound to what it is to be called through."""

    def __init__(self, tool_name: str, binding: str) -> None:
        super().__init__(
            f"tool {tool_name} has no binding {binding!r}", details={"tool_name": tool_name, "binding": binding}
        )


class DuplicateRemoteCallPath(RemoteProtocolError):
    """Two granted tools are called under one name."""

    def __init__(self, call_path: str) -> None:
        super().__init__(f"the call path {call_path} is granted twice", details={"call_path": call_path})


class RemoteToolRegistryReopenMismatch(RemoteProtocolError):
    """The granted tools of a session changed their call paths while it was closed."""

    def __init__(self, before: list[str], after: list[str]) -> None:
        super().__init__(
            f"the call paths were {', '.join(before) or 'none'} and are {', '.join(after) or 'none'}",
            details={"before": before, "after": after},
        )


class ActivitySerialization(RemoteProtocolError):
    """An activity could not be made a line of JSON."""


class ActivityWrite(RemoteProtocolError):
    """A line could not be written to whoever follows a turn."""
