"""Published numbers of the people who took part in the experiments of model-vs-human.

Their decisions are not part of this package: the error consistency of a network with people requires them, while the
difference from the accuracy of each person does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from replk_probe.runtime.file_reading import decode

from .trials import Trials

SOURCE = (
    "published: Geirhos et al., NeurIPS 2021, arXiv:2106.07411; computed from the raw data of "
    "github.com/bethgelab/model-vs-human"
)
PEOPLE_FILE = Path(__file__).with_name("people.json")  # written by scripts/make_people.py


@dataclass(frozen=True)
class PeopleInCondition:
    """Numbers of people in one condition.

    Attributes:
        n: Number of images, all of which each person saw.
        correct: Number of correct decisions, ``[people]``.
        observed_consistency: Observed consistency of each pair of people, in the order of ``numpy.triu_indices``.
        error_consistency: Error consistency of each pair, in the same order.
    """

    n: int
    correct: tuple[int, ...]
    observed_consistency: tuple[float, ...]
    error_consistency: tuple[float, ...]

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """Share of correct decisions, ``[people]``."""
        return np.array(self.correct) / self.n

    def matrix(self, name: str) -> npt.NDArray[np.float64]:
        """Consistencies called ``name`` as a symmetric ``[people, people]`` with ones on its diagonal."""
        found = np.zeros((len(self.correct),) * 2)
        found[np.triu_indices(len(found), 1)] = getattr(self, name)
        matrix: npt.NDArray[np.float64] = found + found.T + np.eye(len(found))
        return matrix


@dataclass(frozen=True)
class PublishedPeople:
    """Numbers of the people of one set.

    Attributes:
        people: Names of the people.
        images_sha256: :func:`digest_of_images` of the images that they saw.
        conditions: Their numbers by condition, with the conditions that the benchmark leaves out.
    """

    people: tuple[str, ...]
    images_sha256: str
    conditions: Mapping[str, PeopleInCondition]


def digest_of_images(trials: Trials) -> str:
    """SHA-256 over condition, image and category of all trials, in the order of conditions and images."""
    names = sorted(zip(trials.keys.tolist(), np.array(trials.category)[trials.order].tolist(), strict=True))
    return hashlib.sha256("".join(f"{key}\n{category}\n" for key, category in names).encode()).hexdigest()


@cache
def published_people() -> Mapping[str, PublishedPeople]:
    """Published numbers of people by set.

    Returns:
        :class:`PublishedPeople` of each of the 17 sets.

    Examples:
        >>> from replk_probe.behaviour import published_people
        >>> people = published_people()["sketch"]
        >>> len(people.people), round(float(people.conditions["0"].accuracy.mean()), 3)
        (7, 0.916)
    """
    record = json.loads(PEOPLE_FILE.read_text(encoding="utf-8"))
    return decode(dict[str, PublishedPeople], record["sets"], "people")
