"""Summarize the published decisions of people on the 17 sets of model-vs-human.

    python scripts/make_people.py RAW-DATA

writes ``replk_probe/behaviour/people.json``. RAW-DATA is the folder ``raw-data`` of
https://github.com/bethgelab/model-vs-human. The summary has numbers of correct decisions and consistencies, from which
no decision can be recovered.
"""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path

import numpy as np

from replk_probe.behaviour.consistency import by_condition, pairs_of
from replk_probe.behaviour.people import PEOPLE_FILE, digest_of_images
from replk_probe.behaviour.raw_data import read_raw_data
from replk_probe.results import strict_json
from replk_probe.runtime.atomic_files import atomic_write_text

DIGITS = 9


def main() -> None:
    """Write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="RAW-DATA")
    folder = parser.parse_args().folder
    sets = {}
    for dataset, trials in groupby((one for one in read_raw_data(folder) if one.is_human), lambda one: one.dataset):
        people = list(trials)
        upper = np.triu_indices(len(people), 1)
        conditions = {}
        for condition in by_condition(people):
            pairs = pairs_of(condition)
            conditions[condition.level] = {
                "n": condition.seen.shape[1],
                "correct": condition.right.sum(axis=1).tolist(),
                "observed_consistency": pairs.observed_consistency[upper].round(DIGITS).tolist(),
                "error_consistency": pairs.error_consistency[upper].round(DIGITS).tolist(),
            }
        sets[dataset] = {
            "people": [one.observer for one in people],
            "images_sha256": digest_of_images(people[0]),
            "conditions": conditions,
        }
    atomic_write_text(PEOPLE_FILE, strict_json({"sets": sets}, indent=1))


if __name__ == "__main__":
    main()
