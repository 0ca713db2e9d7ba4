"""Where what lash logs goes: into the log file, redacted, never between the lines of stderr (contract 08 §6.2).

Only what runs in an event loop logs anything. Without this, the standard
library would print warnings where scripts read errors.
"""

from __future__ import annotations

import logging
import os
import time

from lash_cli.cli.invocation import current
from lash_cli.errors import ConfigError, LashError
from lash_cli.paths import PRIVATE_FILE_MODE, ensure_private_directory

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL + 1,
}
_USUAL = "warning"
_PROMPTS = "lash.prompts"
# Below info they tell whole headers, which are nobody's business.
_WIRES = ("httpx2", "httpcore2", "httpcore")


class LogFile(logging.Handler):
    """Appends each record to the log file of this invocation; one that cannot be written is lost."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        text = f"{stamp} {current().request_id} {record.levelname.lower()} {record.name}: {self.format(record)}\n"
        append_to_log(text)


def append_to_log(text: str) -> str | None:
    """Append `text` to the log file of this invocation, redacted; its path, None where it cannot be written."""
    try:
        from lash_cli.settings.redact import redact  # hardly any command has anything to log

        path = current().paths.log_file
        ensure_private_directory(os.path.dirname(path))
        # A named pipe that nobody reads holds nobody up; it means nothing to a file.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, PRIVATE_FILE_MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(redact(text))
    except (OSError, LashError):
        return None
    return path


def log_to_file() -> None:
    """Send what this process logs to the log file, from the level of `LASH_LOG` on; whatever the host of a library set
    up stays. Raises `ConfigError` for a level there is not."""
    level = _level(current().environment.get("LASH_LOG") or _USUAL)
    root = logging.getLogger()
    if root.handlers:
        return
    root.addHandler(LogFile(level))
    root.setLevel(level)
    for name in _WIRES:
        logging.getLogger(name).setLevel(max(level, logging.INFO))


def log_prompts() -> None:
    """Send what is said to sessions to the log file too, where `privacy.log_prompts` wants it and there is a log."""
    invocation = current()
    logger = logging.getLogger(_PROMPTS)
    if not invocation.settings.log_prompts or logger.handlers:
        return
    if _level(invocation.environment.get("LASH_LOG") or _USUAL) > logging.CRITICAL:
        return
    logger.addHandler(LogFile(logging.INFO))
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _level(word: str) -> int:
    level = _LEVELS.get(word.strip().lower())
    if level is None:
        raise ConfigError(f"LASH_LOG: expected one of: {', '.join(_LEVELS)}, got {word!r}")
    return level
