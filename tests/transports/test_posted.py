"""Frames that the client of a stream posts: their order, their bound, and the end."""

from wsgateway.transports.posted import MAX_WAITING, MAX_WAITING_BYTES, Posted


class Recipient:
    """A peer that accepts `space` frames."""

    def __init__(self, space: int = 1_000_000) -> None:
        self.space = space
        self.frames: list[str | bytes] = []

    def received(self, message: str | bytes, size: int) -> bool:
        if not self.space:
            return False
        self.space -= 1
        self.frames.append(message)
        return True

    def counted(self, *, is_fragment: bool = False) -> None: ...

    def finished(self, code: int, reason: str) -> None: ...


async def test_a_frame_is_passed_on_immediately() -> None:
    peer = Recipient()
    accepted = Posted(peer).put("a", 1)
    assert (accepted.done(), accepted.result(), peer.frames) == (True, True, ["a"])


async def test_frames_that_wait_keep_their_order() -> None:
    peer = Recipient(space=0)
    posted = Posted(peer)
    accepted = [posted.put(str(number), 1) for number in range(5)]
    assert not any(each.done() for each in accepted)
    peer.space = 2
    posted.resume()
    assert [each.done() for each in accepted] == [True, True, False, False, False]
    accepted.append(posted.put("5", 1))  # there would be space, but others were earlier
    peer.space = 100
    assert not accepted[-1].done()
    posted.resume()
    assert all(each.result() for each in accepted)
    assert peer.frames == ["0", "1", "2", "3", "4", "5"]
    assert posted.put("6", 1).done()


async def test_a_frame_that_was_withdrawn_is_not_passed_on() -> None:
    peer = Recipient(space=0)
    posted = Posted(peer)
    first, second, third = (posted.put(text, 1) for text in "abc")
    second.cancel()
    peer.space = 100
    posted.resume()
    assert (first.result(), third.result(), peer.frames) == (True, True, ["a", "c"])


async def test_what_was_held_comes_first() -> None:
    peer = Recipient()
    posted = Posted(peer)
    posted.hold("first", 5)
    accepted = posted.put("second", 6)
    assert peer.frames == []
    posted.resume()
    assert (accepted.result(), peer.frames) == (True, ["first", "second"])


async def test_frames_that_wait_are_bounded_in_number_and_in_bytes() -> None:
    many, large = Posted(Recipient(space=0)), Posted(Recipient(space=0))
    assert not any(many.put("x", 1).done() for _ in range(MAX_WAITING))
    assert many.put("x", 1).result() is False
    assert not large.put("x", 2 * MAX_WAITING_BYTES).done()  # the first one may always wait
    assert large.put("x", 1).result() is False


async def test_frames_that_were_withdrawn_make_space() -> None:
    posted = Posted(Recipient(space=0))
    waiting = [posted.put("x", 1) for _ in range(MAX_WAITING)]
    for each in waiting:
        each.cancel()
    assert not posted.put("x", 1).done()


async def test_at_the_end_every_frame_counts_as_accepted() -> None:
    peer = Recipient(space=0)
    posted = Posted(peer)
    waiting = posted.put("x", 1)
    posted.end()
    posted.end()
    posted.resume()
    assert waiting.result() is True
    assert posted.put("y", 1).result() is True
    assert peer.frames == []


async def test_a_peer_that_ends_the_stream_while_it_receives_is_called_no_more() -> None:
    class Ending(Recipient):
        def received(self, message: str | bytes, size: int) -> bool:
            super().received(message, size)
            posted.end()
            return True

    peer = Ending()
    posted = Posted(peer)
    posted.hold("a", 1)
    second = posted.put("b", 1)
    posted.resume()
    assert (peer.frames, second.result()) == (["a"], True)
