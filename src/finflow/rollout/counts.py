"""Counts of bad events on two sides, tested at every look: e-processes whose false alarms stay below alpha.

`beta_mixture` is the conjugate one, for a share that is fixed and known. `OddsTest` bets on a grid of odds
ratios; the share may be another at every look, so that evidence outlives a change of weight. The mathematics
and its sources are in docs/explanation/sequential-judge.md. Pure.
"""

from collections.abc import Sequence
from math import exp, inf, lgamma, log, log1p
from typing import Final, Literal, Self

import msgspec

# Pseudo-events of the prior: how firmly the mixture expects a share near the declared one.
PRIOR_EVENTS: Final = 100.0
# Continued fractions of the incomplete beta function converge in O(sqrt(max(a, b))) terms.
_MAX_TERMS: Final = 20_000
_TINY: Final = 1e-300
_PRECISION: Final = 1e-15
# Outcomes of one look that are weighed one by one; with more events the plain ratio is used.
_MAX_WEIGHED: Final = 64

# How the events of a look fall on the candidate under the null: `counted` chances are requests, each of which
# is as likely to be bad as any other (hypergeometric); `drawn` ones are proportions, and each event falls by
# itself (binomial); of `bounded` ones only the mean is known to be at most the share, so nothing is boosted.
Law = Literal["counted", "drawn", "bounded"]


def log_beta(a: float, b: float) -> float:
    """The logarithm of the beta function."""
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def log_sum(logs: Sequence[float]) -> float:
    """The logarithm of the sum of what these are logarithms of."""
    top = max(logs)
    return top if top == -inf else top + log(sum(exp(each - top) for each in logs))


def log_tails(a: float, b: float, x: float) -> tuple[float, float]:
    """Logarithms of the regularised incomplete beta function I_x(a, b), and of 1 - I_x(a, b)."""
    if x <= 0.0 or x >= 1.0:
        return (-inf, 0.0) if x <= 0.0 else (0.0, -inf)
    front = a * log(x) + b * log1p(-x) - log_beta(a, b)
    if x < (a + 1) / (a + b + 2):
        below = min(0.0, front - log(a) + log(_fraction(a, b, x)))
        return below, _log_rest(below)
    above = min(0.0, front - log(b) + log(_fraction(b, a, 1 - x)))
    return _log_rest(above), above


def _log_rest(log_part: float) -> float:
    """log(1 - e^log_part)."""
    return log1p(-exp(log_part)) if log_part < 0.0 else -inf


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of I_x(a, b), by Lentz's method: DLMF 8.17.22."""
    c, d = 1.0, 1.0 / _away_from_0(1.0 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away_from_0(1.0 + term * d)
            c = _away_from_0(1.0 + term / c)
            value *= c * d
        if abs(c * d - 1.0) < _PRECISION:
            break
    return value


def _away_from_0(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def beta_mixture(
    candidate: int, baseline: int, share: float, *, one_sided: bool = True, prior_events: float = PRIOR_EVENTS
) -> float:
    """The log of the evidence that events fall on the candidate more often than its share (or, two-sided,
    not by its share): a likelihood ratio, mixed over a beta prior around the share.
    """
    a, b = prior_events * share, prior_events * (1 - share)
    after_a, after_b = a + candidate, b + baseline
    ratio = log_beta(after_a, after_b) - log_beta(a, b) - candidate * log(share) - baseline * log1p(-share)
    if one_sided:
        ratio += log_tails(after_a, after_b, share)[1] - log_tails(a, b, share)[1]
    return ratio


class Evidence(msgspec.Struct, frozen=True):
    """What an OddsTest has won so far, and how it divides its next stake among the odds ratios."""

    log_wealth: float
    log_stakes: tuple[float, ...]


class Events(msgspec.Struct, frozen=True):
    """Bad events of one look by side, among so many chances by side."""

    candidate: int
    baseline: int
    candidate_chances: float
    baseline_chances: float

    @property
    def share(self) -> float:
        """The part of all chances that was the candidate's."""
        chances = self.candidate_chances + self.baseline_chances
        return self.candidate_chances / chances if chances > 0 else 0.0


class OddsTest(msgspec.Struct, frozen=True):
    """Bets that the candidate's odds of a bad event are these multiples of the baseline's.

    The wealth never passes what is needed (`log_goal`), and what that saves makes every other outcome
    cheaper. Whoever plays fair wins more than 1/alpha with a probability below alpha.
    """

    odds: tuple[float, ...]
    stakes: tuple[float, ...]
    log_goal: float

    @classmethod
    def at(cls, alpha: float, odds_and_stakes: Sequence[tuple[float, float]]) -> Self:
        """The test at a level; stakes are shares of the whole."""
        odds, stakes = zip(*odds_and_stakes, strict=True)
        return cls(odds, stakes, -log(alpha))

    def begin(self) -> Evidence:
        """Nothing won yet."""
        total = sum(self.stakes)
        return Evidence(0.0, tuple(log(stake / total) for stake in self.stakes))

    def won(self, evidence: Evidence) -> bool:
        """Whether the evidence has reached 1/alpha."""
        return evidence.log_wealth >= self.log_goal - 1e-9

    def after(self, evidence: Evidence, events: Events, law: Law = "counted") -> Evidence:
        """The evidence after one more look, by the law of how its events fall on the sides under the null."""
        share, count = events.share, events.candidate + events.baseline
        if count == 0 or share <= 0.0 or share >= 1.0 or self.won(evidence):
            return evidence
        costs = [count * log1p(share * (odds - 1)) for odds in self.odds]
        gains = [log(odds) for odds in self.odds]
        stakes = [
            stake + events.candidate * gain - cost
            for stake, gain, cost in zip(evidence.log_stakes, gains, costs, strict=True)
        ]
        ratio = log_sum(stakes)
        if count <= _MAX_WEIGHED and law != "bounded":
            chances = _split(events, count, share, law)
            bases = [stake - cost for stake, cost in zip(evidence.log_stakes, costs, strict=True)]
            ratios = _ratios(bases, gains, count)
            payout = _payout(ratios, chances, events.candidate, exp(self.log_goal - evidence.log_wealth))
        else:
            payout = ratio
        return Evidence(evidence.log_wealth + payout, tuple(stake - ratio for stake in stakes))


def _ratios(bases: Sequence[float], gains: Sequence[float], count: int) -> list[float]:
    """The mixed likelihood ratio of every number of events that may have fallen on the candidate."""
    return [
        sum(exp(base + fallen * gain) for base, gain in zip(bases, gains, strict=True))
        for fallen in range(count + 1)
    ]


def _split(events: Events, count: int, share: float, law: Law) -> list[float]:
    """How probable it is under the null that 0, 1, ... of the events fall on the candidate."""
    mine, others = events.candidate_chances, events.baseline_chances
    # Errors that are counted later than their requests can be more than the look has requests.
    if law == "drawn" or events.candidate > mine or events.baseline > others:
        rest = log1p(-share)
        return [exp(_log_choose(count, k) + k * log(share) + (count - k) * rest) for k in range(count + 1)]
    whole = _log_choose(mine + others, count)
    return [
        exp(_log_choose(mine, k) + _log_choose(others, count - k) - whole)
        if k <= mine and count - k <= others
        else 0.0
        for k in range(count + 1)
    ]


def _log_choose(n: float, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _payout(ratios: Sequence[float], chances: Sequence[float], fallen: int, needed: float) -> float:
    """The log of what the look pays: the ratio times a boost, at most what is needed, fair on average.

    The outcomes whose pay is cut are the largest ones; take as few of them as leave the rest uncut.
    """
    cut = 0.0
    kept = sum(ratio * chance for ratio, chance in zip(ratios, chances, strict=True))
    boost = 1.0 / kept
    for place in range(len(ratios) - 1, -1, -1):
        if boost * ratios[place] <= needed:
            break
        cut += chances[place]
        kept -= ratios[place] * chances[place]
        boost = (1.0 - needed * cut) / kept if kept > _TINY else 0.0
    return log(min(boost * ratios[fallen], needed))
