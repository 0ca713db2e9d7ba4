"""Every way a command can end without an answer, as one message and one exit status (contract 08 §6.2, §6.4).

`run` is the only place that turns exceptions into exit statuses. An expected
error (`LashError`) becomes `error:`/`hint:` lines or one JSON line on stderr;
anything else becomes code `internal` with its traceback in the log file. Where
a process may open no more files, anything that opens one fails, an import too:
that is told as what it is, wherever it struck. Whatever is printed passes the
redactor first, so no key can leave through an error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from lash_cli.cli.invocation import current
from lash_cli.cli.output import SCHEMA, to_notice, write_note
from lash_cli.errors import ConfigError, LashError, TooManyOpenFiles, UsageError
from lash_cli.views.safe_text import safe_text

# A message that quotes what it was given stays readable whatever that was; the middle is left out.
MESSAGE_CHARS = 2_000
EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 141
_STDIN = 0


def run(main: Callable[[], int]) -> int:
    """Run `main` and return the exit status of the process; never raises."""
    try:
        return _status_of(main)
    finally:
        _settle_stderr()


def _status_of(main: Callable[[], int]) -> int:
    try:
        status = main()
        if sys.stdout is not None:  # None where a host of ours runs without one
            sys.stdout.flush()
        return status
    except LashError as error:
        return _report_last(error)
    except BrokenPipeError:
        return _abandon_stdout()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except OSError as error:
        return _report_os_error(error)
    except Exception as error:  # noqa: BLE001 - the boundary of the process: everything becomes `internal`
        return _report_last(error)


def report(error: LashError) -> int:
    """Print `error` on stderr in the form asked for and return its exit status."""
    document = error_document(error)
    if current().notice_format in ("json", "jsonl", "name"):
        write_note(to_notice(document))
    else:
        write_note(f"error: {safe_text(document['message'])}")
        if document["hint"]:
            write_note(f"hint: {safe_text(document['hint'])}")
        if "log" in document["details"]:
            write_note(f"details: {safe_text(str(document['details']['log']))}")
    if current().debug and not isinstance(error, UsageError):
        import traceback

        from lash_cli.settings.redact import redact

        write_note(redact("".join(traceback.format_exception(error))).rstrip())
    return error.exit_status


def error_document(error: LashError) -> dict[str, Any]:
    """The JSON form of an error (contract 08 §6.2), also used by the `stream_end` line of a JSONL stream."""
    from lash_cli.settings.redact import redact, redacted

    return {
        "schema": SCHEMA,
        "kind": "Error",
        "code": error.code,
        "message": _shortened(redact(error.message)),
        "exit": error.exit_status,
        "retryable": error.retryable,
        "ambiguous": error.ambiguous,
        "hint": redact(current().commands_here(error.hint)) if error.hint else None,
        "details": redacted(error.details),
        "request_id": current().request_id,
    }


def failure_document(error: Exception) -> dict[str, Any]:
    """The JSON form of whatever was raised, as `told_as` tells it."""
    return error_document(told_as(error))


def told_as(error: Exception) -> LashError:
    """The error that is told for whatever was raised; what nobody expected is `internal`, with its traceback in the log
    file."""
    too_many = TooManyOpenFiles.behind(error)
    if too_many is not None:
        return too_many
    if isinstance(error, LashError):
        return error
    from lash_cli.system import is_without_thread

    return _without_thread(error) if is_without_thread(error) else _internal(error)


def _without_thread(error: Exception) -> LashError:
    """Where it stood is not known: something may have been done before."""
    told = ConfigError(
        "no thread can be started: this user or this container may have no more processes",
        code="too_many_processes",
        hint="look before retrying, and let it have more: see ulimit -u, and the limit of the container",
    )
    told.ambiguous = True
    told.__cause__ = error
    return told


def _internal(error: Exception) -> LashError:
    details: dict[str, Any] = {"type": type(error).__name__}
    log = None if current().debug else _log_traceback(error)
    if log is not None:
        details["log"] = log
    failure = LashError(
        f"unexpected failure: {type(error).__name__}: {error}", hint="run it again with --debug", details=details
    )
    failure.__cause__ = error
    return failure


def _report_last(error: Exception) -> int:
    if TooManyOpenFiles.behind(error) is not None:
        # Room for one file: what the failure is told with may have to be loaded, and nobody reads stdin any more.
        try:
            os.close(_STDIN)
        except OSError:
            pass
    return report(told_as(error))


def _report_os_error(error: OSError) -> int:
    import errno

    if error.errno == errno.EPIPE:
        return _abandon_stdout()
    is_of_stdout = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO) or (
        error.errno == errno.EBADF and _is_only_read(sys.stdout)
    )
    if is_of_stdout and error.filename is None:
        _discard_stdout()
        return report(_unwritten(error))
    return _report_last(error)


def _is_only_read(stream: Any) -> bool:
    """Whether its descriptor is open for reading only, as where a supervisor gives /dev/null for all three."""
    import fcntl

    try:
        return fcntl.fcntl(stream.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    except (OSError, ValueError, AttributeError):
        return False


def _unwritten(error: OSError) -> LashError:
    """The command did its work and nobody can be told what came of it."""
    unwritten = LashError(
        f"cannot write the answer: {error.strerror}",
        code="output_not_written",
        hint="what was asked for may have been done: look before you repeat it",
        details={"errno": error.errno},
    )
    unwritten.ambiguous = True
    return unwritten


def _log_traceback(error: Exception) -> str | None:
    """Append the traceback to the log file; its path, or None when even that cannot be written."""
    import time
    import traceback

    from lash_cli.cli.logs import append_to_log

    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return append_to_log(f"{stamp} {current().request_id}\n{''.join(traceback.format_exception(error))}")


def _shortened(text: str) -> str:
    half = MESSAGE_CHARS // 2
    return text if len(text) <= MESSAGE_CHARS else f"{text[:half]} … {text[-half:]}"


def _abandon_stdout() -> int:
    """The reader went away: end as SIGPIPE would."""
    _discard_stdout()
    return EXIT_CLOSED_PIPE


def _discard_stdout() -> None:
    """Let what stdout still holds go nowhere; the interpreter's own flush at exit would fail once more."""
    _discard(sys.stdout)


def _settle_stderr() -> None:
    """A note that stderr did not take is lost; left in its buffer, the interpreter would make 120 of the status."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        _discard(sys.stderr)


def _discard(stream: Any) -> None:
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, stream.fileno())
        os.close(sink)
    except (OSError, ValueError, AttributeError):
        return
