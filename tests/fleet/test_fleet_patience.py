"""The longest wait, from a layer's size and the measured rate of uploads."""

from crossmount.fleet.waiting import LEASE_SECONDS, Patience, RateMeter


def test_a_rate_of_long_ago_counts_less() -> None:
    """Old measurements count less, so that a long-running process follows changes of its connection."""
    meter = RateMeter()
    for _ in range(100):
        meter.add(100 * 1024 * 1024, 100)
    for _ in range(30):
        meter.add(1000 * 1024 * 1024, 100)
    assert meter.rate is not None
    assert meter.rate > 9 * 1024 * 1024


def test_patience_follows_size_and_rate() -> None:
    """The wait grows with size, shrinks with rate, and stays between a lease's life and the limit."""
    patience, meter = Patience(), RateMeter()
    assert meter.rate is None
    assert patience.seconds(1024 * 1024, None) == patience.least > LEASE_SECONDS
    assert patience.seconds(100 * 1024 * 1024, None) == 400
    meter.add(1000, 0.0001)  # too small to measure a rate
    meter.add(40 * 1024 * 1024, 2)
    assert patience.seconds(1000 * 1024 * 1024, meter.rate) == 200
    assert patience.seconds(2**50, meter.rate) == patience.limit
    assert not Patience(limit=0).waits_for(2**40)
    assert not patience.waits_for(1000)
