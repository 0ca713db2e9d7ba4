"""What bytes are is told by the bytes; a name only tells apart what looks the same from inside."""

from __future__ import annotations

import pytest

from lash_cli.core.media import is_text, media_type_of, media_type_of_path

OFFICE = "application/vnd.openxmlformats-officedocument."


@pytest.mark.parametrize(
    ("data", "name", "media_type"),
    [
        (b"\x89PNG\r\n\x1a\n", "a.txt", "image/png"),
        (b"\xff\xd8\xff\xe0", "", "image/jpeg"),
        (b"GIF89a", "", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "", "audio/wav"),
        (b"RIFF\x00\x00\x00\x00????", "a.webp", None),
        (b"\x00\x00\x00\x18ftypheic", "", "image/heic"),
        (b"\x00\x00\x00\x18ftypisom", "", "video/mp4"),
        (b"%PDF-1.7\n%\xe2", "a", "application/pdf"),
        (b"\xff\xfb\x90\x00", "", "audio/mpeg"),
        (b"PK\x03\x04\x14\x00", "report.DOCX", OFFICE + "wordprocessingml.document"),
        (b"PK\x03\x04\x14\x00", "archive.zip", None),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old.xls", "application/vnd.ms-excel"),
        (b'{"a": 1}', "a.json", "application/json"),
        (b"a,b", "a.csv", "text/csv"),
        (b"# x", "README.md", "text/markdown"),
        (b"print(1)", "x.py", "text/plain"),
        ("grüße".encode(), "", "text/plain"),
        (b"\xef\xbb\xbfbom", "", "text/plain"),
        ("grüße".encode("latin-1"), "a.txt", None),
        (b"a\x00b", "a.txt", None),
        (b"\xff\xfe", "", None),
    ],
)
def test_the_bytes_of_a_file_say_what_it_is_and_its_name_only_what_they_leave_open(
    data: bytes, name: str, media_type: str | None
) -> None:
    assert media_type_of(data, name) == media_type


def test_an_address_promises_what_its_path_ends_in_and_nothing_without_an_ending() -> None:
    assert media_type_of_path("/a/b.JPG") == "image/jpeg"
    assert media_type_of_path("/a.d/b") is None
    assert media_type_of_path("") is None


def test_json_and_every_kind_of_text_are_words() -> None:
    assert is_text("text/csv") and is_text("application/json") and not is_text("application/pdf")
