"""The rate limit decides as an ideal token bucket would, and the shared memory keeps what it is told."""

import os
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finflow.api.admission import TURN_S, turn_in_s
from finflow.kernel.errors import FinFlowError
from finflow.limits import buckets
from finflow.limits.buckets import Buckets
from finflow.limits.model import SECOND_NS, Limits, Override, decide, seconds

steps = st.lists(st.tuples(st.integers(0, 3_000_000_000), st.integers(1, 4)), max_size=60)
rates = st.integers(1, 1000)
bursts = st.integers(1, 20)


class TokenBucket:
    """The other way to say it: tokens that come in evenly, in exact fractions, and are taken out."""

    def __init__(self, interval_ns: int, burst: int) -> None:
        self.interval_ns, self.burst = interval_ns, burst
        self.tokens, self.at_ns = Fraction(burst), 0

    def take(self, now_ns: int, cost: int) -> bool:
        came = Fraction(now_ns - self.at_ns, self.interval_ns)
        self.tokens, self.at_ns = min(Fraction(self.burst), self.tokens + came), now_ns
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True


@given(rates, bursts, steps)
def test_it_admits_what_a_token_bucket_admits(
    rate: int, burst: int, given_steps: list[tuple[int, int]]
) -> None:
    interval_ns = Limits(rate, burst, 1).interval_ns
    other = TokenBucket(interval_ns, burst)
    now_ns = full_at_ns = 0
    for pause_ns, cost in given_steps:
        now_ns += pause_ns
        verdict = decide(full_at_ns, now_ns, interval_ns, burst, cost)
        assert (verdict.wait_ns == 0) == other.take(now_ns, cost)
        assert verdict.remaining == other.tokens // 1
        assert verdict.full_in_ns == (burst - other.tokens) * interval_ns
        full_at_ns = verdict.full_at_ns


@given(rates, bursts, steps)
def test_whoever_waits_as_told_is_let_in_and_not_a_moment_before(
    rate: int, burst: int, given_steps: list[tuple[int, int]]
) -> None:
    interval_ns = Limits(rate, burst, 1).interval_ns
    now_ns = full_at_ns = 0
    for pause_ns, _ in given_steps:
        now_ns += pause_ns
        verdict = decide(full_at_ns, now_ns, interval_ns, burst)
        if verdict.wait_ns:
            assert verdict.full_at_ns == max(full_at_ns, now_ns), "a refusal takes nothing"
            again_ns = now_ns + verdict.wait_ns
            assert decide(verdict.full_at_ns, again_ns, interval_ns, burst).wait_ns == 0
            assert decide(verdict.full_at_ns, again_ns - 1, interval_ns, burst).wait_ns == 1
        full_at_ns = verdict.full_at_ns


@given(rates, bursts, steps)
def test_no_stretch_of_time_has_more_than_the_burst_and_the_rate(
    rate: int, burst: int, given_steps: list[tuple[int, int]]
) -> None:
    interval_ns = Limits(rate, burst, 1).interval_ns
    now_ns = full_at_ns = 0
    passed: list[int] = []
    for pause_ns, cost in given_steps:
        now_ns += pause_ns
        verdict = decide(full_at_ns, now_ns, interval_ns, burst, cost)
        full_at_ns = verdict.full_at_ns
        if not verdict.wait_ns:
            passed += [now_ns] * cost
    for first, start_ns in enumerate(passed):
        for count, at_ns in enumerate(passed[first:], 1):
            assert count <= burst + Fraction((at_ns - start_ns) * rate, SECOND_NS)


def test_a_moment_from_another_clock_counts_as_an_empty_bucket() -> None:
    verdict = decide(10**18, 0, SECOND_NS, 5)
    assert (verdict.remaining, verdict.wait_ns, verdict.full_at_ns) == (0, SECOND_NS, 5 * SECOND_NS)
    assert decide(-(10**18), 0, SECOND_NS, 5).remaining == 4


def test_looking_takes_nothing() -> None:
    assert decide(0, 0, SECOND_NS, 2, cost=0) == (0, 0, 2, 0)
    empty = decide(0, 0, SECOND_NS, 2, cost=2)
    assert decide(empty.full_at_ns, 0, SECOND_NS, 2, cost=0) == (2 * SECOND_NS, 2 * SECOND_NS, 0, 0)


@pytest.mark.parametrize(
    ("rate", "burst", "interval_ns", "window_s"),
    [(1, 1, SECOND_NS, 1), (1000, 2000, 1_000_000, 2), (3, 10, 333_333_334, 4), (1_000_000, 1, 1000, 1)],
)
def test_limits_in_nanoseconds_and_whole_seconds(
    rate: int, burst: int, interval_ns: int, window_s: int
) -> None:
    limits = Limits(rate, burst, 1)
    assert (limits.interval_ns, limits.window_s) == (interval_ns, window_s)


@pytest.mark.parametrize(("ns", "s"), [(1, 1), (SECOND_NS, 1), (SECOND_NS + 1, 2), (0, 1)])
def test_waits_are_rounded_up(ns: int, s: int) -> None:
    assert seconds(ns) == s


def test_an_override_replaces_what_it_names() -> None:
    default = Limits(10, 20, 30)
    assert Override().over(default) == default
    assert Override(burst=1).over(default) == (10, 1, 30)
    assert Override(1, 2, 3).over(default) == (1, 2, 3)


@pytest.mark.parametrize("shared", [True, False])
def test_buckets_are_apart(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "limits"
    memory = Buckets(path if shared else None)
    taken = Counter(key for key in [7, 8, 7, -9, 7, 1 << 62] if not memory.take(key, 10**15, 2).wait_ns)
    assert taken == {7: 2, 8: 1, -9: 1, 1 << 62: 1}
    memory.close()


def test_two_who_map_the_file_share_and_a_third_one_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    one, two = Buckets(path), Buckets(path)
    assert [memory.take(5, 10**15, 4).remaining for memory in (one, two, one)] == [3, 2, 1]
    one.close()
    two.close()
    three = Buckets(path)
    assert three.take(5, 10**15, 4).remaining == 0
    assert three.take(5, 10**15, 4).wait_ns > 0
    three.close()


def test_many_more_keys_than_places_each_get_their_burst() -> None:
    """Keys that are asked for one after another, each within its own second, never inherit a state."""
    memory = Buckets(None)
    places = buckets.SETS * buckets.WAYS
    assert all(memory.take(key, 10**12, 1).wait_ns == 0 for key in range(1, 3 * places))
    memory.close()


def test_a_full_set_forgets_who_is_nearest_to_full() -> None:
    memory = Buckets(None)
    same_set = [key for key in range(1, 60_000) if _set_of(key) == _set_of(1)][: buckets.WAYS + 1]
    assert len(same_set) == buckets.WAYS + 1
    *first, last = same_set
    for count, key in enumerate(first, 1):
        memory.take(key, 10**12, 100, cost=count)
    memory.take(last, 10**12, 100)
    left = [memory.take(key, 10**12, 100, cost=0).remaining for key in [*first[1:], last]]
    assert left == [98, 97, 96, 95, 94, 93, 92, 99]
    memory.close()


def _set_of(key: int) -> int:
    """As keys are spread: the upper ten bits of the product with 2**64 over the golden ratio."""
    return (key * 0x9E3779B97F4A7C15 % 2**64) // 2**54


def test_a_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    path.write_bytes(b"")
    path.chmod(0o644)
    with pytest.raises(FinFlowError, match="private"):
        Buckets(path)
    path.unlink()
    Buckets(tmp_path / "elsewhere").close()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FinFlowError, match="data_unusable"):
        Buckets(path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(FinFlowError, match="not a private file"):
        Buckets(path)
    with pytest.raises(FinFlowError, match="data_unusable"):
        Buckets(tmp_path / "no" / "folder")


def test_the_file_is_private_and_of_one_size(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    memory = Buckets(path)
    memory.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == buckets.SIZE_BYTES == 1024 * 8 * 16


@pytest.mark.parametrize("phase", [0.0, 0.25, 0.75])
def test_whoever_waits_comes_in_at_a_common_turn(phase: float) -> None:
    for now_s, delay_s in ((100.0, 0.001), (100.0031, 0.0004), (7.77, 0.2), (0.0, 0.25)):
        turn_s = now_s + turn_in_s(now_s, delay_s, phase)
        assert turn_s >= now_s + delay_s - 1e-9
        assert turn_s < now_s + delay_s + TURN_S + 1e-9
        turns = turn_s / TURN_S - phase
        assert abs(turns - round(turns)) < 1e-6
