from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlp.batch import TextRole
from medvlp.losses.video.levels import has_role, logit_scale, table_of, together_target

relaxed = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@relaxed
@given(owner=st.lists(st.integers(0, 4), max_size=12).map(sorted), data=st.data())
def test_a_table_holds_each_owners_rows_in_order(owner, data):
    chosen = data.draw(st.lists(st.booleans(), min_size=len(owner), max_size=len(owner)))
    table = table_of(torch.tensor(owner, dtype=torch.long), 5, torch.tensor(chosen).bool())
    for i in range(5):
        expected = [r for r, (o, c) in enumerate(zip(owner, chosen, strict=True)) if c and o == i]
        assert table.row[i][table.there[i]].tolist() == expected
        assert not table.there[i][len(expected) :].any()


def oracle(scene, texts_of) -> list[list[int]]:
    b, key, target = len(scene.batch), scene.batch.text_key.tolist(), scene.target.tolist()
    leads = [{key[j] for j in texts_of(scene, i, TextRole.LEAD)} for i in range(b)]
    result = []
    for i in range(b):
        row = []
        for k in range(b):
            said = [target[i][j] for j in texts_of(scene, k, TextRole.CHILD)]
            if not said:
                row.append(-1)
            elif i == k or leads[i] & leads[k]:
                row.append(1)
            elif 0 in said:
                row.append(0)
            else:
                row.append(-1 if -1 in said else 1)
        result.append(row)
    return result


@relaxed
@given(seed=st.integers(0, 10_000))
def test_together_is_true_false_or_unknown_as_logic_says(lecture, texts_of, seed):
    scene = lecture(seed, keys=3)
    assert together_target(scene.batch, scene.target).tolist() == oracle(scene, texts_of)


def test_without_roles_no_text_has_one(lecture):
    batch = replace(lecture(1).batch, text_role=None)
    assert not has_role(batch, TextRole.LEAD).any()
    assert not has_role(batch, TextRole.PLAIN).any()


def test_a_fixed_scale_has_no_gradient_and_survives_the_clamp():
    scale = logit_scale(0.01, 0.02, learned=False)
    assert not any(p.requires_grad for p in scale.parameters())
    scale.clamp_()
    assert scale().item() == pytest.approx(100, rel=1e-5)
