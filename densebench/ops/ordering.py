"""How NeCo ranks patches and compares rankings; without torch, so that settings can be checked before it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from densebench.core.bounds import BelowOne, Positive
from densebench.core.errors import UsageError

Network: TypeAlias = Literal["bitonic", "odd_even"]
Distribution: TypeAlias = Literal["cauchy", "logistic", "logistic_phi"]
Similarity: TypeAlias = Literal["cosine", "euclidean"]


@dataclass(frozen=True, kw_only=True)
class Ordering:
    """How patches are ranked and two rankings compared; UsageError for settings that end in NaN."""

    similarity: Similarity = "cosine"
    """Of a patch and a reference; ``"euclidean"`` is their distance."""
    steepness: Positive = 100.0
    """Of the student's comparisons."""
    teacher_steepness: Positive = 100.0
    """Of the teacher's comparisons."""
    network: Network = "bitonic"
    """Which comparisons are made; their number grows as n log(n)^2 or n^2."""
    distribution: Distribution = "cauchy"
    """Whose distribution function says how far two values are swapped."""
    art_lambda: BelowOne = 0.25
    """Exponent of the trick phi, of "logistic_phi" alone: close values are told apart more clearly."""
    two_sided: bool = False
    """Add the cross-entropy of the teacher's order under the student's, as in the paper."""
    floor: BelowOne = 0.0
    """Probabilities below it count as it inside the logarithm, and pass no gradient. 0 leaves them alone."""

    def __post_init__(self) -> None:
        check_ordering(self)


def check_ordering(ordering: Ordering) -> None:
    """Raise UsageError for an unknown name, a number out of range, and settings whose loss is NaN.

    The Cauchy function approaches 0 and 1 slowly; the logistic ones round to exactly 0 and 1 in float32 once their
    argument passes 25 log 2 = 17.3, and 0 log 0 is NaN. Cosines differ by 2 at most, hence 100 in the paper's
    ``logistic_phi`` (argument up to 168) is refused and 10 (16.8) is not; distances have no such bound.
    """
    if ordering.similarity not in get_args(Similarity):
        known = ", ".join(get_args(Similarity))
        raise UsageError(f"unknown similarity {ordering.similarity!r}; expected one of {known}.")
    if not 0 <= ordering.floor < 1:
        raise UsageError(f"floor={ordering.floor}: expected a probability in [0, 1).")
    for steepness in (ordering.steepness, ordering.teacher_steepness):
        try:
            check_sorting(ordering.network, ordering.distribution, steepness, ordering.art_lambda)
        except ValueError as error:
            raise UsageError(f"{error}.") from error
    if ordering.distribution == "cauchy" or ordering.floor > 0:
        return
    logged = [ordering.steepness, *([ordering.teacher_steepness] if ordering.two_sided else [])]
    power = 1 - ordering.art_lambda if ordering.distribution == "logistic_phi" else 1
    highest = 25 * math.log(2) / 2**power if ordering.similarity == "cosine" else 0.0
    if max(logged) > highest:
        gentler = f"a steepness of {math.floor(10 * highest) / 10:g} or less, " if highest else ""
        raise UsageError(
            f"distribution={ordering.distribution} with steepness={max(logged):g} and similarity={ordering.similarity} "
            "rounds probabilities to 0, whose logarithm makes the loss NaN; choose distribution=cauchy (what the "
            f"published code runs), {gentler}or a floor such as floor=1e-12."
        )


def check_sorting(network: str, distribution: str, steepness: float, art_lambda: float) -> None:
    """Raise ValueError for an unknown name or a number out of range."""
    for name, value, known in (
        ("network", network, get_args(Network)),
        ("distribution", distribution, get_args(Distribution)),
    ):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; expected one of {', '.join(known)}")
    if not (math.isfinite(steepness) and steepness > 0):
        raise ValueError(f"steepness is positive and finite, got {steepness}")
    if not 0 <= art_lambda < 1:
        raise ValueError(f"art_lambda lies in [0, 1), got {art_lambda}")
