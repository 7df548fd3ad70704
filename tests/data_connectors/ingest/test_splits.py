from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from data_connectors.ingest.splits import assign_splits

names = st.text("abcdef0123456789", min_size=4, max_size=8)
patients = st.dictionaries(names, st.integers(0, 3), min_size=1, max_size=60)


@given(patients)
def test_every_patient_has_one_split_and_order_does_not_matter(group_of):
    splits = assign_splits(group_of)
    assert splits.keys() == group_of.keys()
    assert splits == assign_splits(dict(reversed(group_of.items())))


@given(st.integers(3, 400), st.integers(0, 5))
def test_shares_are_exact_to_a_patient(count, seed):
    splits = assign_splits({f"p{i}": 0 for i in range(count)}, seed=seed, val=0.1, test=0.2)
    number = Counter(splits.values())
    assert abs(number["test"] - 0.2 * count) <= 1
    assert number["test"] >= 1
    assert number["val"] >= 1
    assert number["train"] >= 1


@given(patients)
def test_every_source_with_three_patients_has_one_in_test(group_of):
    splits = assign_splits(group_of)
    for group, size in Counter(group_of.values()).items():
        if size >= 3:
            assert any(splits[p] == "test" for p in group_of if group_of[p] == group)


@given(patients, patients)
def test_a_source_added_at_the_end_moves_nobody(before, added):
    after = {**{name: 4 for name in added}, **before}
    old, new = assign_splits(before), assign_splits(after)
    assert all(new[name] == old[name] for name in before)


@given(patients, st.data())
def test_patients_who_share_pixels_stay_together(group_of, data):
    some = sorted(group_of)
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(some), st.sampled_from(some)), max_size=9))
    splits = assign_splits(group_of, together=pairs)
    assert all(splits[a] == splits[b] for a, b in pairs)


def test_the_seed_divides_anew():
    group_of = {f"p{i}": 0 for i in range(50)}
    assert assign_splits(group_of, seed=1) != assign_splits(group_of, seed=2)


def test_no_share_no_patients():
    splits = assign_splits({f"p{i}": 0 for i in range(10)}, val=0, test=0)
    assert set(splits.values()) == {"train"}


def test_one_large_cluster_does_not_keep_the_test_set_empty():
    group_of = {name: 0 for name in "abcdef"}
    splits = assign_splits(group_of, together=[("a", "b"), ("b", "c"), ("d", "e"), ("e", "f")])
    assert sorted(Counter(splits.values()).values()) == [3, 3]
    assert "test" in splits.values()
