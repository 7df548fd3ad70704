"""Patients into train, val and test: made once, at ingest, and stored.

A patient is in one split, whatever the modality. The order in which patients fill the splits is
that of a hash of pseudonym and seed, so it depends on nothing else; the shares are exact within
every source, so no source is missing from the test set by chance.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

from medvlp.types import Split


def assign_splits(
    group_of: Mapping[str, int],
    *,
    together: Iterable[tuple[str, str]] = (),
    seed: int = 0,
    val: float = 0.1,
    test: float = 0.2,
) -> dict[str, Split]:
    """Give every patient a split.

    Args:
        group_of: Patient -> number of the first source it occurs in. Shares hold within a group,
            and a source added at the end of a config moves nobody of the sources before it.
        together: Pairs of patients that share pixels: they go to the same split.
        seed: Another seed, another division.
        val: Share of the patients of a group, rounded to whole patients.
        test: Likewise; at least one patient in a group of three or more.

    Returns:
        Patient -> split.
    """
    clusters = _clusters(group_of, together)
    groups: dict[int, list[list[str]]] = defaultdict(list)
    for cluster in clusters:
        groups[min(group_of[patient] for patient in cluster)].append(cluster)
    splits: dict[str, Split] = {}
    for group in groups.values():
        group.sort(key=lambda cluster: min(_rank(patient, seed) for patient in cluster))
        total = sum(map(len, group))
        _fill(group, splits, "test", _share(total, test))
        _fill(group, splits, "val", _share(total, val))
        for cluster in group:
            for patient in cluster:
                splits.setdefault(patient, "train")
    return splits


def _share(total: int, share: float) -> int:
    """Whole patients of a share; small groups still have one, when they have three."""
    if share <= 0:
        return 0
    return max(int(share * total + 0.5), 1 if total >= 3 else 0)


def _fill(group: list[list[str]], splits: dict[str, Split], name: Split, wanted: int) -> None:
    """Put clusters into a split, in order, as long as they fit."""
    count = 0
    free = [cluster for cluster in group if cluster[0] not in splits]
    for cluster in free:
        if count + len(cluster) <= wanted:
            splits.update(dict.fromkeys(cluster, name))
            count += len(cluster)
    if wanted and not count and len(free) > 1:  # all clusters are large: the smallest will do
        splits.update(dict.fromkeys(min(free, key=len), name))


def _rank(patient: str, seed: int) -> str:
    return hashlib.sha256(f"split\0{seed}\0{patient}".encode()).hexdigest()


def _clusters(patients: Iterable[str], together: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Connected components (union-find), each sorted."""
    parent = {patient: patient for patient in patients}

    def root(patient: str) -> str:
        while parent[patient] != patient:
            parent[patient] = parent[parent[patient]]
            patient = parent[patient]
        return patient

    for a, b in together:
        parent[root(a)] = root(b)
    members: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(parent):
        members[root(patient)].append(patient)
    return list(members.values())
