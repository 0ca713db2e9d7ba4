"""How a built-in tool reports a failure: raised deep inside, turned into a value at the tool's edge.

A tool failure is a value fed back to the model (contract 05 §0 rule 4), so a
`ToolFault` never leaves the tools layer: `function.FunctionTool` catches it and
answers with its output.
"""

from __future__ import annotations

from typing import Any

from lash_cli.core.content import AttachmentSource
from lash_cli.core.tools import FailureClass, RetryHint, ToolCallOutput, failure
from lash_cli.errors import UsageError


class ToolFault(UsageError):
    """One tool call failed in a way the model should read.

    `failure_class` and `code` classify it, `retry` says whether another
    attempt may help, `raw` is JSON for programs, `attachments` are
    shown to the model behind the message.
    """

    default_code = "tool_error"

    def __init__(
        self,
        failure_class: FailureClass,
        code: str,
        message: str,
        *,
        retry: RetryHint | None = None,
        raw: Any = None,
        attachments: tuple[AttachmentSource, ...] = (),
    ) -> None:
        super().__init__(message, code=code)
        self.failure_class = failure_class
        self.retry = retry or RetryHint()
        self.raw = raw
        self.attachments = attachments

    def to_output(self) -> ToolCallOutput:
        """The failed output that stands for this fault."""
        return failure(
            self.failure_class,
            self.code,
            self.message,
            retry=self.retry,
            raw=self.raw,
            attachments=self.attachments,
        )


def invalid(code: str, message: str) -> ToolFault:
    """A fault of class invalid_request: the model asked for something that cannot be."""
    return ToolFault(FailureClass.INVALID_REQUEST, code, message)


def os_fault(error: OSError, action: str, path: object) -> ToolFault:
    """The fault for a failed system call; `action` completes "cannot …"."""
    reason = error.strerror or type(error).__name__
    message = f"cannot {action} {path}: {reason}"
    match error:
        case FileNotFoundError():
            return ToolFault(FailureClass.INVALID_REQUEST, "not_found", message)
        case PermissionError():
            return ToolFault(FailureClass.PERMISSION_DENIED, "permission_denied", message)
        case IsADirectoryError() | NotADirectoryError() | FileExistsError():
            return ToolFault(FailureClass.INVALID_REQUEST, "wrong_file_type", message)
        case BlockingIOError() | InterruptedError():
            return ToolFault(FailureClass.EXECUTION, "io_error", message, retry=RetryHint("safe"))
        case _:
            return ToolFault(FailureClass.EXECUTION, "io_error", message)
