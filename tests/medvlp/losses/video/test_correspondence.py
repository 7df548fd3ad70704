from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlp.batch import TextRole
from medvlp.losses.video.correspondence import (
    NoisyCorrespondence,
    rectified_nce,
    rectified_target,
    soft_cross_entropy,
)

relaxed = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def scaled_in_turn(score, rows, columns, epsilon, iterations=50):
    """Plan of Sinkhorn, entry by entry; None is a way that is shut."""
    plan = [[0.0 if s is None else math.exp(s / epsilon) for s in row] for row in score]
    for _ in range(iterations):
        plan = [[x * want / sum(row) for x in row] for row, want in zip(plan, rows, strict=True)]
        sums = [sum(row[j] for row in plan) for j in range(len(columns))]
        plan = [[x * columns[j] / sums[j] for j, x in enumerate(row)] for row in plan]
    return plan


def transposed(table):
    return [list(row) for row in zip(*table, strict=True)]


def direction(score, marks, plan, share):
    """Cross-entropy of the rows against share Q + (1 - share) P."""
    total = 0.0
    for s, t, q in zip(score, marks, plan, strict=True):
        logs = math.log(sum(math.exp(x) for x, mark in zip(s, t, strict=True) if mark >= 0))
        for x, mark, mass in zip(s, t, q, strict=True):
            if mark >= 0:
                wanted = share * mass / sum(q) + (1 - share) * (mark == 1) / t.count(1)
                total -= wanted * (x - logs)
    return total / len(score)


def naive(logits, target, share=0.3, epsilon=1.0) -> float:
    b, m = target.shape
    rows = [i for i in range(b) if 1 in target[i].tolist()]
    columns = [j for j in range(m) if 1 in target[:, j].tolist()]
    if not rows:
        return 0.0
    s = [[logits[i, j].item() for j in columns] for i in rows]
    t = [[int(target[i, j]) for j in columns] for i in rows]
    shut = [
        [None if y < 0 else x for x, y in zip(a, c, strict=True)] for a, c in zip(s, t, strict=True)
    ]
    plan = scaled_in_turn(
        shut, [1 / len(rows)] * len(rows), [1 / len(columns)] * len(columns), epsilon
    )
    there = direction(s, t, plan, share)
    back = direction(transposed(s), transposed(t), transposed(plan), share)
    return (there + back) / 2


def case(seed, b, m):
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(b, m, generator=draw, dtype=torch.float64)
    return logits, torch.randint(-1, 2, (b, m), generator=draw).to(torch.int8)


@relaxed
@given(
    seed=st.integers(0, 10_000), b=st.integers(1, 5), m=st.integers(1, 6),
    share=st.sampled_from([0.0, 0.3, 1.0]), epsilon=st.sampled_from([0.5, 1.0]),
)  # fmt: skip
def test_the_clip_level_equals_the_loops(seed, b, m, share, epsilon):
    logits, target = case(seed, b, m)
    loss = rectified_nce(logits, target, share=share, epsilon=epsilon).item()
    assert loss == pytest.approx(naive(logits, target, share, epsilon), abs=1e-6)


def test_without_transport_and_duplicates_it_is_clip():
    logits, _ = case(1, 5, 5)
    labels = torch.arange(5)
    entropy = torch.nn.functional.cross_entropy
    expected = (entropy(logits, labels) + entropy(logits.T, labels)) / 2
    assert torch.allclose(rectified_nce(logits, torch.eye(5).to(torch.int8), share=0.0), expected)


@relaxed
@given(seed=st.integers(0, 10_000))
def test_targets_sum_to_one_and_unknown_pairs_get_nothing(seed):
    logits, target = case(seed, 5, 5)
    target.fill_diagonal_(1)
    by_row, by_column = rectified_target(logits.requires_grad_(), target)
    assert torch.allclose(by_row.sum(1), torch.ones(5).double())
    assert torch.allclose(by_column.sum(0), torch.ones(5).double())
    assert by_row[target < 0].sum() + by_column[target < 0].sum() == 0
    assert not by_row.requires_grad


def test_a_faulty_negative_gets_a_share_and_a_plain_one_does_not():
    logits = torch.tensor([[9.0, 9, 0, 0], [9, 9, 0, 0], [0, 0, 9, 0], [0, 0, 0, 9]])
    by_row, _ = rectified_target(logits, torch.eye(4, dtype=torch.int8))
    assert by_row[0, 1] == pytest.approx(0.15, abs=1e-3)
    assert by_row[0, 0] == pytest.approx(0.85, abs=1e-3)
    assert by_row[2, 2] == pytest.approx(1, abs=1e-2)
    assert by_row[2, 3] < 1e-3


def test_identical_texts_share():
    logits, _ = case(2, 4, 4)
    logits[:, 1] = logits[:, 0]
    target = torch.eye(4, dtype=torch.int8)
    target[:2, :2] = 1
    by_row, by_column = rectified_target(logits, target)
    assert torch.allclose(by_row[:, 0], by_row[:, 1])
    assert torch.allclose(by_column[:, 0], by_column[:, 1])


@pytest.mark.parametrize("seed", range(3))
def test_gradients_pass_gradcheck(seed):
    logits, target = case(seed, 4, 4)
    target.fill_diagonal_(1)
    wanted, _ = rectified_target(logits, target)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: soft_cross_entropy(x, wanted, target >= 0), (logits,))
    assert torch.autograd.gradcheck(lambda x: rectified_nce(x, target, share=0.0), (logits,))


def test_the_targets_have_no_gradient():
    """Its gradient is softmax minus target, and nothing through the transport."""
    logits, _ = case(4, 3, 3)
    target = torch.eye(3, dtype=torch.int8)
    by_row, by_column = rectified_target(logits, target)
    logits.requires_grad_()
    rectified_nce(logits, target).backward()
    expected = (logits.softmax(1) - by_row + logits.softmax(0) - by_column) / 6
    assert torch.allclose(logits.grad, expected.detach())


@pytest.mark.parametrize("mark", [0, -1])
def test_without_a_positive_loss_and_gradient_are_zero(mark):
    logits = torch.randn(3, 4, requires_grad=True)
    loss = rectified_nce(logits, torch.full((3, 4), mark, dtype=torch.int8))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_one_pair_duplicates_and_huge_logits():
    assert rectified_nce(torch.tensor([[3.0]]), torch.ones(1, 1, dtype=torch.int8)).item() == 0
    same = rectified_nce(torch.zeros(4, 4), torch.ones(4, 4, dtype=torch.int8))
    assert same.item() == pytest.approx(math.log(4))
    logits = (torch.randn(4, 4) * 1e4).requires_grad_()
    loss = rectified_nce(logits, torch.eye(4, dtype=torch.int8))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def bucket_plan(score, value):
    n, m = len(score), len(score[0])
    wide = [[*row, value] for row in score] + [[value] * (m + 1)]
    plan = scaled_in_turn(wide, [1.0] * n + [m], [1.0] * m + [n], 0.1)
    kept = [row[:m] for row in plan[:n]]
    mass = sum(map(sum, kept))
    return [[x / mass for x in row] for row in kept]


def video_logits(scene, texts_of, scale, mass):
    """Of every sample with children: e^s mass sum Q S, and the bucket from the diagonal."""
    offsets, b = scene.batch.offsets.tolist(), len(scene.batch)
    told = [i for i in range(b) if texts_of(scene, i, TextRole.CHILD)]
    if not told:
        return [], []
    frames = {i: list(range(offsets[i], offsets[i + 1])) for i in told}
    texts = {i: texts_of(scene, i, TextRole.CHILD) for i in told}
    dot = (scene.embeddings.frames @ scene.embeddings.text.T).tolist()
    seen = [dot[f][t] for i in told for f in frames[i] for k in told for t in texts[k]]
    low, width = min(seen), max(seen) - min(seen) or 1.0
    near = sorted(
        (dot[frames[i][int((j + 0.5) * len(frames[i]) / len(texts[i]))]][t] - low) / width
        for i in told
        for j, t in enumerate(texts[i])
    )
    at = 0.3 * (len(near) - 1)
    below = near[int(at)]
    value = below + (at - int(at)) * (near[min(int(at) + 1, len(near) - 1)] - below)
    table = []
    for i in told:
        row = []
        for k in told:
            own = [[(dot[f][t] - low) / width for t in texts[k]] for f in frames[i]]
            plan = bucket_plan(own, value)
            row.append(
                scale * mass * sum(
                    q * s for x, y in zip(plan, own, strict=True) for q, s in zip(x, y, strict=True)
                )
            )  # fmt: skip
        table.append(row)
    return told, table


def holds(scene, texts_of, i, k) -> int:
    """Whether the paragraph of k holds for i: it does, it does not, or nobody knows."""
    key, target = scene.batch.text_key.tolist(), scene.target.tolist()
    leads = [{key[j] for j in texts_of(scene, x, TextRole.LEAD)} for x in (i, k)]
    said = [target[i][j] for j in texts_of(scene, k, TextRole.CHILD)]
    if i == k or leads[0] & leads[1]:
        return 1
    return 0 if 0 in said else -1 if -1 in said else 1


def entropy_of_rows(scores, marks) -> float:
    rows = []
    for s, t in zip(scores, marks, strict=True):
        total = math.log(sum(math.exp(x) for x, mark in zip(s, t, strict=True) if mark >= 0))
        rows.append(sum(total - x for x, mark in zip(s, t, strict=True) if mark == 1) / t.count(1))
    return sum(rows) / len(rows)


@relaxed
@given(seed=st.integers(0, 10_000), keys=st.sampled_from([None, 3]))
def test_both_levels_equal_the_loops(lecture, texts_of, seed, keys):
    scene = lecture(seed, keys=keys)
    objective = NoisyCorrespondence(mass=3.0)
    b, scale = len(scene.batch), objective.scale().item()
    lead = [j for i in range(b) for j in texts_of(scene, i, TextRole.LEAD)]
    logits = scale * scene.embeddings.visual @ scene.embeddings.text[lead].T
    expected = naive(logits, scene.target[:, lead])
    told, table = video_logits(scene, texts_of, objective.paragraph_scale().item(), 3.0)
    if told:
        marks = [[holds(scene, texts_of, i, k) for k in told] for i in told]
        there = entropy_of_rows(table, marks)
        back = entropy_of_rows(transposed(table), transposed(marks))
        expected += 0.1 * (there + back) / 2
    assert objective(scene).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("words", [False, True])
def test_the_scales_are_parameters_and_are_trained(lecture, words):
    """In the published code the paragraph's scale is a parameter of no module."""
    objective = NoisyCorrespondence(words=words)
    names = dict(objective.named_parameters())
    assert {"scale.log_scale", "paragraph_scale.log_scale"} == set(names)
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    before = {name: value.item() for name, value in names.items()}
    objective(lecture(1, [(3, 1, 2, 0), (2, 1, 3, 0), (4, 1, 2, 0)])).backward()
    optimizer.step()
    for name, value in names.items():
        assert value.grad.abs() > 0
        assert value.item() != before[name]


@settings(relaxed, max_examples=10)
@given(seed=st.integers(0, 10_000), words=st.booleans())
def test_the_order_of_the_batch_does_not_matter(lecture, reorder, seed, words):
    scene = lecture(seed, [(3, 1, 2, 0), (2, 1, 4, 0), (1, 0, 1, 1), (2, 1, 0, 0)], keys=5)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed)).tolist()
    objective = NoisyCorrespondence(words=words)
    assert torch.allclose(objective(scene), objective(reorder(scene, order)))


def test_padding_and_samples_without_texts_do_not_change_a_paragraph(lecture, reorder):
    scene = lecture(3, [(3, 1, 2, 0), (2, 1, 3, 0), (4, 0, 0, 0)], unknown=False)
    objective = NoisyCorrespondence()
    assert torch.allclose(
        objective.paragraph_level(scene), objective.paragraph_level(reorder(scene, [1, 0]))
    )


def test_paragraphs_that_fit_their_videos_cost_less(lecture, with_vectors):
    scene = lecture(4, [(3, 1, 3, 0)] * 4, unknown=False, dim=16)
    child = scene.batch.text_role == TextRole.CHILD
    objective = NoisyCorrespondence()
    fitting = with_vectors(scene, frames=scene.embeddings.text[child])
    moved = with_vectors(scene, frames=scene.embeddings.text[child].roll(3, 0))
    assert objective.paragraph_level(fitting) < 1e-3
    assert objective.paragraph_level(moved) > 10 * objective.paragraph_level(fitting)
    # Order within a video does not matter: transport realigns.
    shuffled = scene.embeddings.text[child].reshape(4, 3, 16)[:, [2, 0, 1]].flatten(0, 1)
    assert objective.paragraph_level(with_vectors(scene, frames=shuffled)) < 1e-2


def test_nothing_to_align_and_a_batch_of_one_are_zero(lecture, with_vectors):
    scene = lecture(5, [(2, 0, 0, 1), (1, 0, 0, 0)])
    leaves = {
        name: getattr(scene.embeddings, name).clone().requires_grad_()
        for name in ("visual", "text", "frames")
    }
    objective = NoisyCorrespondence()
    loss = objective(with_vectors(scene, **leaves))
    loss.backward()
    assert loss.item() == 0
    assert all(x.grad is None or x.grad.abs().max() == 0 for x in leaves.values())
    assert NoisyCorrespondence()(lecture(5, [(3, 1, 3, 0)])).item() == pytest.approx(0, abs=1e-9)


def test_all_identical_vectors_stay_finite(lecture, with_vectors):
    scene = lecture(6, [(2, 1, 2, 0)] * 3)
    leaves = {
        name: torch.ones_like(getattr(scene.embeddings, name)).div(2).requires_grad_()
        for name in ("visual", "text", "frames")
    }
    loss = NoisyCorrespondence()(with_vectors(scene, **leaves))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(x.grad).all() for x in leaves.values())


def test_words_are_asked_for_only_where_they_are_used():
    assert NoisyCorrespondence().needs == {"frames"}
    assert NoisyCorrespondence(words=True).needs == {"frames", "words"}
