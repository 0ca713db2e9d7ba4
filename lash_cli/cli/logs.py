"""Where what lash logs goes: into the log file, redacted, never between the lines of stderr (contract 08 §6.2).

Only what runs in an event loop logs anything. Without this, the standard
library would print warnings where scripts read errors.
"""

from __future__ import annotations

import logging
import os
import time

from lash_cli.cli.invocation import current
from lash_cli.errors import LashError
from lash_cli.paths import PRIVATE_FILE_MODE, ensure_private_directory
from lash_cli.settings.redact import redact


class LogFile(logging.Handler):
    """Appends each record to the log file of this invocation; one that cannot be written is lost."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        path = current().paths.log_file
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        text = f"{stamp} {current().request_id} {record.levelname.lower()} {record.name}: {self.format(record)}\n"
        try:
            ensure_private_directory(os.path.dirname(path))
            # A named pipe that nobody reads holds nobody up; it means nothing to a file.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, PRIVATE_FILE_MODE)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(redact(text))
        except (OSError, LashError):
            return


def log_to_file() -> None:
    """Send warnings and errors of this process to the log file; whatever the host of a library set up stays."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(LogFile(logging.WARNING))
