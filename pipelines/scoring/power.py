"""What a comparison can show before anything is trained. Pure functions.

In: held-out examples and seeds. Out: the smallest true difference that is called better or worse in 80 of 100 comparisons:

    detectable(examples=1000, seeds=5)  -> 0.062
    detectable(examples=1000, seeds=2)  -> None: no verdict with fewer than MIN_SEEDS seeds

Examples and seeds are crossed random effects (Westfall, Kenny and Judd 2014, "Statistical power and optimal design in experiments in
which samples of participants respond to samples of stimuli"). The difference of an example and a seed is an effect of the example, one
of the seed and a rest. With E examples and S seeds, the variance of the mean is

    example / E + seed / S + rest / (S x E)

The smallest detectable difference is (t(0.975) + t(0.80)) x standard error (Bloom 1995, "Minimum detectable effects"), with Student's t
at Satterthwaite's degrees of freedom, as in the intervals of seeds.py. _MARGIN is added, since a comparison has to estimate its variances.
"""

from __future__ import annotations

import math

from pipelines.scoring.statistics import CONFIDENCE_LEVEL

MIN_SEEDS = 3
"""With fewer, intervals are too narrow for a verdict about a method: one or two seeds say little about how much seeds differ."""
POWER = 0.8
_MARGIN = 1.1
"""Without it the formula's difference is found in 74 to 80 of 100 simulated comparisons."""
USELESS = 0.2
"""A comparison that cannot show a difference of this size is warned of."""

# What is assumed of two methods before they are measured.
SEED_SD = 0.02
"""Standard deviation of a method's accuracy over its seeds."""
DISAGREEMENT = 0.4
"""Share of the examples that exactly one of two students has right."""
BY_EXAMPLE = 0.1
"""Share of the disagreement that every seed repeats: examples that suit one of the methods."""


def detectable(examples: int, seeds: int) -> float | None:
    """The smallest difference of two accuracies that is shown with 80% power. None: too few seeds or examples for any verdict."""
    from scipy.stats import t

    if seeds < MIN_SEEDS or examples < 2:
        return None
    rest = (1 - BY_EXAMPLE) * DISAGREEMENT
    mean_squares = (seeds * BY_EXAMPLE * DISAGREEMENT + rest, 2 * examples * SEED_SD**2 + rest, rest)
    freedoms = (examples - 1, seeds - 1, (examples - 1) * (seeds - 1))
    total = mean_squares[0] + mean_squares[1] - rest
    degrees = total**2 / sum(square**2 / freedom for square, freedom in zip(mean_squares, freedoms, strict=True))
    quantiles = float(t.ppf((1 + CONFIDENCE_LEVEL) / 2, degrees)) + float(t.ppf(POWER, degrees))
    found = _MARGIN * quantiles * math.sqrt(total / (seeds * examples))
    return found if found < 1.0 else None


def power_text(examples: int, seeds: int) -> str:
    """What a comparison of this size can show, as a sentence with its assumptions, or as a warning."""
    size = f"{examples:,} held-out examples and {seeds} {'seed' if seeds == 1 else 'seeds'}"
    if seeds < MIN_SEEDS:
        return f"warning: {size} can show no difference; a verdict needs at least {MIN_SEEDS} seeds. Add seeds to compare.seeds."
    found = detectable(examples, seeds)
    if found is None or found > USELESS:
        least = "no difference" if found is None else f"only differences of at least {100 * found:.0f} points"
        return f"warning: {size} can show {least}. Add held-out examples, or seeds to compare.seeds."
    return (
        f"{size} can show a difference of {100 * found:.1f} points or more (found in {POWER:.0%} of comparisons; assumes that accuracies "
        f"of seeds differ by {100 * SEED_SD:g} points (standard deviation) and that two students disagree on "
        f"{DISAGREEMENT:.0%} of the examples)."
    )
