"""Notes on the numbers of a result: what makes them undefined, or differs from the experiments with people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from replk_probe.shape_bias.statistics import few_note

from .benchmark_sets import BENCHMARK_SETS
from .people import SOURCE
from .scores import SetScores

NO_DECISIONS = (
    "Observed and error consistency with people require their decisions, which are not part of this package. Import "
    "the folder raw-data of model-vs-human to compute them. The accuracy of people is published and shown."
)


def notes_of(sets: Sequence[SetScores]) -> Iterator[str]:
    """What makes numbers of a set undefined, or differs from the experiments with people."""
    if any(one.source == SOURCE for each in sets for one in each.observers):
        yield NO_DECISIONS
    for each in sets:
        levels = {level for one in each.observers for level in one.by_condition}
        lacking = [level for level in BENCHMARK_SETS[each.name].conditions if level not in levels]
        if lacking:
            yield (
                f"There are no trials in the condition{'s' * (len(lacking) > 1)} {', '.join(lacking)} of the set "
                f"{each.name}. Its average over conditions is undefined."
            )
    smallest = {
        each.name: min(found.n for one in each.observers for found in one.by_condition.values()) for each in sets
    }
    small = [name for name, n in smallest.items() if few_note([n], "images")]
    where = ", ".join(small) if len(small) <= 3 else f"{len(small)} sets"
    few = few_note([min(smallest.values())], f"images of an observer in a condition of {where}")
    if few:
        yield few
    fewer: dict[str, list[str]] = {}
    published = set()
    for each in sets:
        counts = {one.name: sum(found.n for found in one.by_condition.values()) for one in each.observers}
        most = max(counts.values())
        for name, n in counts.items():
            if n < most:
                fewer.setdefault(name, []).append(f"{n} of {most} trials of {each.name}")
                if any(one.source == SOURCE for one in each.observers):
                    published.add(name)
    for name, parts in fewer.items():
        yield (
            f"{name} has {', '.join(parts)}. Two observers are compared on their common images; numbers of a "
            "condition without common images are undefined."
            + (
                " The published accuracies of people are those on all images, so that the accuracy difference cannot "
                "be restricted to common images."
                if name in published
                else ""
            )
        )
