"""Reads text files that people and other programs write: settings, keys, passwords. Does not know what they mean."""

from pathlib import Path

BYTE_ORDER_MARK = "\ufeff"


def read_text(path: Path) -> str:
    """Return the text of the file, without a byte order mark, with every line ended by a single line feed.

    Raise `OSError` if it cannot be read, `ValueError` if it is not UTF-8. The error never quotes the text, which may be
    a secret.
    """
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        raise ValueError("is UTF-16 or binary, save it as UTF-8")
    try:
        return unify_line_ends(decode(data))
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ValueError(f"is not UTF-8 (at line {line}), save it as UTF-8") from None


def decode(data: bytes) -> str:
    """Return the text of `data` without a byte order mark. Raise `UnicodeDecodeError` if it is not UTF-8."""
    return data.decode().removeprefix(BYTE_ORDER_MARK)


def unify_line_ends(text: str) -> str:
    """Return `text` with every line ended by a single line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
