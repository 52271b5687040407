"""Text files as people and other programs write them."""

from pathlib import Path

import pytest

from wsgateway.config.files import read_text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize("data", [b"a\nb\n", b"\xef\xbb\xbfa\r\nb\r\n", b"a\rb\r"])
def test_a_text_has_no_byte_order_mark_and_one_kind_of_line_end(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    assert read_text(file) == "a\nb\n"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("secret".encode("utf-16"), "is UTF-16 or binary"),
        (b"secret\0", "is UTF-16 or binary"),
        (b"one\nsecret\xff", r"is not UTF-8 \(at line 2\)"),
    ],
)
def test_a_file_that_is_not_text_is_refused_without_quoting_it(file: Path, data: bytes, text: str) -> None:
    file.write_bytes(data)
    with pytest.raises(ValueError, match=text) as caught:
        read_text(file)
    assert "secret" not in str(caught.value)
