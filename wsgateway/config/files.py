"""Text files that people and other programs write: settings, keys, passwords. Knows nothing of what they mean."""

from pathlib import Path

BYTE_ORDER_MARK = "\ufeff"


def read_text(path: Path) -> str:
    """Return the text of the file, without a byte order mark, with every line ended by a single line feed.

    Raise `OSError` if it cannot be read, `ValueError` if it is not UTF-8. The error quotes nothing of the text, which
    may be a secret.
    """
    return decode_text(path.read_bytes())


def decode_text(data: bytes) -> str:
    """Return `data` as `read_text` does. Raise `ValueError` if it is not UTF-8."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        raise ValueError("is UTF-16 or binary, save it as UTF-8")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ValueError(f"is not UTF-8 (at line {line}), save it as UTF-8") from None
    return text.removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n")
