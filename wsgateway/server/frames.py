"""Cuts what a client sends into single frames, so that a parser can be given one at a time. Parses nothing else of
them, and leaves all that is wrong with a frame to the parser."""

EXTENDED = {126: 2, 127: 8}
"""Bytes that follow the first two and hold the length, by the length that stands in the second (RFC 6455 5.2)."""


class FrameCutter:
    """Finds where each frame of one client ends, however the frames are spread over reads."""

    __slots__ = ("_head", "_missing")

    def __init__(self) -> None:
        self._head = b""  # of a frame whose length is not known yet
        self._missing = 0  # bytes of a frame whose length is known

    @property
    def is_between_frames(self) -> bool:
        return not self._head and not self._missing

    def cut(self, data: bytes | bytearray, at: int) -> int:
        """Return the place in `data` behind the frame that begins or goes on at `at`; `len(data)` if more is missing.

        Call it with each place once, since it counts what it has seen.
        """
        if not self._missing:
            known = len(self._head)
            head = self._head + data[at : at + 14 - known]
            size = _size(head)
            if not size:
                self._head = bytes(head)
                return len(data)
            self._head, self._missing = b"", size - known
        end = min(at + self._missing, len(data))
        self._missing -= end - at
        return end


def _size(head: bytes | bytearray) -> int:
    """Bytes of the frame that begins with `head`; 0 if that is too short to tell."""
    if len(head) < 2:
        return 0
    length, size = head[1] & 127, 6 if head[1] & 128 else 2
    extended = EXTENDED.get(length, 0)
    if len(head) < 2 + extended:
        return 0
    return size + extended + (int.from_bytes(head[2 : 2 + extended]) if extended else length)
