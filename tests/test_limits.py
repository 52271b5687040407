"""How often something may happen."""

from wsgateway.limits import Bucket


def test_a_bucket_without_a_burst_holds_the_events_of_one_second() -> None:
    bucket = Bucket(3.0, 0, now=100.0)
    assert [bucket.allows(100.0) for _ in range(4)] == [True, True, True, False]


def test_a_bucket_fills_with_time_and_never_beyond_its_burst() -> None:
    bucket = Bucket(2.0, 3.0, now=100.0)
    assert [bucket.allows(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.allows(100.5) for _ in range(2)] == [True, False]
    assert [bucket.allows(900.0) for _ in range(4)] == [True, True, True, False]
