"""Takes the text out of a PDF in a process of its own; run as a script with the directory pypdf is found in.

A document may be made so that reading it takes all time and memory there is: here that costs a child process and no
more. Input: the document on stdin. Output: one JSON object per page, `text`, then one that is last: `pages`, and
`is_cut` when text was left out; or an `error`.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

TEXT_CHARS = 8 * 1024 * 1024


def read(document: bytes) -> Iterator[dict[str, Any]]:
    """The output of one document, in order."""
    import pypdf

    reader = pypdf.PdfReader(io.BytesIO(document))
    if reader.is_encrypted and not reader.decrypt(""):
        yield {"error": "it is encrypted"}
        return
    pages = len(reader.pages)
    left = TEXT_CHARS
    for page in reader.pages:
        text = page.extract_text().rstrip()
        yield {"text": text[:left]}
        left -= len(text)
        if left < 0:
            break
    yield {"pages": pages, "is_cut": left < 0}


def main() -> None:
    """Serve the one document on stdin."""
    sys.path.append(sys.argv[1])
    # What pypdf has to say about the document is no part of the answer, and both streams are one.
    logging.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        for item in read(sys.stdin.buffer.read()):
            print(json.dumps(item))
    except Exception as error:  # noqa: BLE001 - a broken document breaks its reader in any way there is
        print(json.dumps({"error": f"{type(error).__name__}: {error}" if str(error) else type(error).__name__}))


if __name__ == "__main__":
    main()
