from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.losses.concepts.config import PatchConceptConfig
from medvlp.losses.concepts.patch_concept import (
    PatchConcept,
    concept_labels,
    concept_vectors,
    patch_cosines,
    unit_or_zero,
)

PRESENT, ABSENT, NOTHING = [1, 0, 0], [-1, -1, -1], [0, 0, 0]


def _unit(values):
    length = math.sqrt(sum(x * x for x in values))
    return [x / length for x in values]


def _label(own, polarity, stated, concept, unknown):
    slots = [int(stated[3 * concept + side]) for side in range(3)]
    if own and polarity == 1:
        return 1
    if own:
        return -1 if polarity == -1 and (slots[0] == -1 or slots == [0, 0, 0]) else 0
    if slots[0] == 0:
        return -1 if unknown == "negative" else 0
    return -1 if slots[0] == -1 else 0


def naive(scene, kappa, beta, unknown, count):
    """Loops over mentions, visuals, frames and patches."""
    batch, losses = scene.batch, []
    texts = batch.text_offsets.tolist()
    frames = batch.offsets.tolist()
    for text, first, last, concept, polarity in batch.mentions.tolist():
        rows = scene.embeddings.words[text, first:last].tolist()
        if not rows:
            continue
        query = _unit([sum(column) / len(rows) for column in zip(*rows, strict=True)])
        for i in range(len(batch)):
            own = texts[i] <= text < texts[i + 1]
            y = _label(own, polarity, batch.stated[i], concept, unknown)
            if y == 0:
                continue
            best = -math.inf
            for n in range(frames[i], frames[i + 1]):
                cosines = sorted(
                    sum(a * b for a, b in zip(_unit(patch), query, strict=True))
                    for patch in scene.embeddings.patches[n].tolist()
                )
                best = max(best, sum(cosines[-count:]) / count)
            losses.append(math.log1p(math.exp(-y * (kappa * best + beta))))
    return sum(losses) / len(losses) if losses else 0.0


def _random_scene(make_scene, seed, *, patches=6):
    draw = random.Random(seed)
    b, m, concepts = draw.randint(1, 4), draw.randint(1, 5), 3
    texts = [0] * b
    for _ in range(m):
        texts[draw.randrange(b)] += 1
    mentions = []
    for _ in range(draw.randint(0, 6)):
        first = draw.randint(0, 4)
        row = (draw.randrange(m), first, draw.randint(first, 5))
        mentions.append((*row, draw.randrange(concepts), draw.choice([-1, 0, 1])))
    stated = [[draw.choice([-1, 0, 1]) for _ in range(3 * concepts)] for _ in range(b)]
    return make_scene(
        [draw.randint(1, 3) for _ in range(b)], [[0] * 3 * concepts] * m, [[0] * m] * b,
        texts=texts, stated=stated, mentions=mentions, patches=patches, seed=seed,
    )  # fmt: skip


fast = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@fast
@given(
    seed=st.integers(0, 10_000),
    unknown=st.sampled_from(["ignored", "negative"]),
    reduce=st.sampled_from(["max", "top"]),
)
def test_the_loss_equals_the_naive_loop(make_scene, seed, unknown, reduce):
    scene = _random_scene(make_scene, seed)
    objective = PatchConcept(bias=-1.0, unknown=unknown, reduce=reduce, share=0.5).double()
    count = 3 if reduce == "top" else 1
    expected = naive(scene, objective.scale().item(), -1.0, unknown, count)
    assert objective(scene).item() == pytest.approx(expected, abs=1e-6)


def _differentiable(scene):
    patches = (1.7 * scene.embeddings.patches).requires_grad_()
    words = (0.6 * scene.embeddings.words).requires_grad_()
    changed = replace(scene.embeddings, patches=patches, words=words)
    return replace(scene, embeddings=changed), patches, words


def _two_visuals(make_scene, polarity=1, others=ABSENT, own=NOTHING, lengths=(2, 1)):
    """Text 0 of visual 0 mentions concept 0 in its words 1 and 2; visual 1 is another."""
    return make_scene(list(lengths), [[0] * 3] * 2, [[0] * 2] * 2, texts=[1, 1],
                      mentions=[(0, 1, 3, 0, polarity)], stated=[own, others])  # fmt: skip


def test_the_loss_passes_gradcheck(make_scene):
    scene, patches, words = _differentiable(_two_visuals(make_scene))
    objective = PatchConcept(temperature=0.5, bias=-1.0).double()

    def loss(patches, words, *_):
        changed = replace(scene.embeddings, patches=patches, words=words)
        return objective(replace(scene, embeddings=changed))

    assert gradcheck(loss, (patches, words, *objective.parameters()))


def test_a_negated_mention_attracts_nothing(make_scene):
    scene, patches, _ = _differentiable(_two_visuals(make_scene, polarity=-1, own=ABSENT))
    PatchConcept(bias=0.0).double()(scene).backward()
    query = concept_vectors(
        scene.embeddings.words, *(torch.tensor([x]) for x in (0, 1, 3))
    ).detach()[0]
    # A step against the gradient moves no patch, of any visual, towards the words.
    assert (-(patches.grad @ query) <= 1e-12).all()
    pushed = patches.grad.abs().sum((1, 2)) > 0
    assert bool(pushed[:2].any())
    assert bool(pushed[2])


def test_a_stated_mention_attracts_its_own_visual_only(make_scene):
    scene, patches, _ = _differentiable(_two_visuals(make_scene))
    PatchConcept(bias=0.0).double()(scene).backward()
    query = concept_vectors(
        scene.embeddings.words, *(torch.tensor([x]) for x in (0, 1, 3))
    ).detach()[0]
    towards = -(patches.grad @ query).sum(1)
    assert towards[:2].sum() > 0
    assert towards[2] < 0


def test_a_shared_concept_contributes_exactly_zero(make_scene):
    for unknown in ("ignored", "negative"):
        objective = PatchConcept(bias=0.0, unknown=unknown).double()
        scene, patches, _ = _differentiable(_two_visuals(make_scene, others=PRESENT))
        loss = objective(scene)
        loss.backward()
        assert patches.grad[2].abs().max() == 0
        alone = make_scene([2], [[0] * 3], [[0]], mentions=[(0, 1, 3, 0, 1)])
        kept = replace(alone.embeddings, patches=patches[:2].detach(),
                       words=scene.embeddings.words[:1].detach())  # fmt: skip
        assert objective(replace(alone, embeddings=kept)).item() == pytest.approx(
            loss.item(), abs=0
        )


@pytest.mark.parametrize(
    ("polarity", "own", "label"),
    [
        (1, PRESENT, 1),
        (0, NOTHING, 0),
        (-1, ABSENT, -1),
        (-1, NOTHING, -1),
        (-1, PRESENT, 0),  # another sentence states it
        (-1, [1, 1, -1], 0),  # "no right effusion" where there is a left one
        (-1, [0, 0, -1], 0),  # "no right effusion" and nothing about the left
        (-1, [0, -1, -1], 0),  # doubted by another sentence
    ],
)
def test_labels_of_the_own_visual(make_scene, polarity, own, label):
    batch = _two_visuals(make_scene, polarity, own=own).batch
    assert concept_labels(batch, batch.mentions, False).tolist() == [[label], [-1]]


@pytest.mark.parametrize(
    ("others", "ignored", "negative"),
    [(PRESENT, 0, 0), (ABSENT, -1, -1), (NOTHING, 0, -1), ([0, -1, 0], 0, -1), ([1, -1, 1], 0, 0)],
)
def test_labels_of_other_visuals(make_scene, others, ignored, negative):
    for polarity in (-1, 0, 1):
        batch = _two_visuals(make_scene, polarity, others).batch
        assert concept_labels(batch, batch.mentions, False)[1].tolist() == [ignored]
        assert concept_labels(batch, batch.mentions, True)[1].tolist() == [negative]


def test_one_concept_and_one_patch_a_visual_is_siglip(make_scene):
    b = 4
    scene = make_scene(
        [1] * b, [[0] * 3 * b] * b, [[0] * b] * b, texts=[1] * b, patches=1,
        mentions=[(j, 2, 3, j, 1) for j in range(b)], stated=[[0] * 3 * b] * b,
    )  # fmt: skip
    objective = PatchConcept(bias=-10.0, unknown="negative").double()
    x, z = scene.embeddings.patches[:, 0], scene.embeddings.words[:, 2]
    sign = 2 * torch.eye(b, dtype=torch.float64) - 1
    pairwise = -torch.nn.functional.logsigmoid(sign * (objective.scale() * x @ z.T - 10.0))
    assert objective(scene).item() == pytest.approx(pairwise.sum().item() / b**2, abs=1e-9)


def test_the_order_of_patches_frames_and_mentions_does_not_matter(make_scene):
    objective = PatchConcept(bias=-1.0, unknown="negative").double()
    for seed in range(5):
        scene = _random_scene(make_scene, seed)
        order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
        frames = torch.arange(len(scene.embeddings.patches))
        for start, end in zip(scene.batch.offsets[:-1], scene.batch.offsets[1:], strict=True):
            frames[start:end] = frames[start:end].flip(0)
        moved = replace(
            scene,
            embeddings=replace(
                scene.embeddings, patches=3 * scene.embeddings.patches[frames][:, order]
            ),
            batch=replace(scene.batch, mentions=scene.batch.mentions.flip(0)),
        )
        assert objective(moved).item() == pytest.approx(objective(scene).item(), abs=1e-12)


def test_padding_of_words_does_not_matter(make_scene):
    scene = _two_visuals(make_scene)
    words = torch.nn.functional.pad(scene.embeddings.words, (0, 0, 0, 4))
    longer = replace(scene, embeddings=replace(scene.embeddings, words=words))
    objective = PatchConcept().double()
    assert objective(longer).item() == pytest.approx(objective(scene).item(), abs=1e-12)


def test_a_sample_of_many_frames_is_seen_in_its_best_patch():
    patches = torch.zeros(5, 3, 2, dtype=torch.float64)
    patches[..., 1] = 1
    patches[3, 1] = torch.tensor([2.0, 0.0])
    concept = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    got = patch_cosines(patches, concept, torch.tensor([0, 2, 5]))
    assert got.tolist() == [[0.0], [1.0]]


def test_spans_name_their_own_words_only():
    words = torch.arange(12.0).reshape(1, 6, 2).double().requires_grad_()
    out = concept_vectors(words, *(torch.tensor([x]) for x in (0, 2, 5)))
    mean = torch.tensor([6.0, 7.0]).double()
    assert torch.allclose(out[0], mean / mean.norm())
    out[0, 0].backward()
    assert (words.grad[0].abs().sum(1) > 0).tolist() == [False, False, True, True, True, False]


@pytest.mark.parametrize("mentions", [None, [], [(0, 2, 2, 0, 1)], [(0, 1, 2, 0, 0)]])
def test_without_a_mention_the_loss_and_gradient_are_zero(make_scene, mentions):
    scene = make_scene([2], [[0] * 3], [[1]], mentions=mentions)
    scene, patches, _ = _differentiable(scene)
    loss = PatchConcept().double()(scene)
    loss.backward()
    assert loss.item() == 0
    assert patches.grad.abs().max() == 0


def test_a_batch_of_one_and_of_duplicates(make_scene):
    scene = make_scene([2], [[0] * 3], [[1]], mentions=[(0, 1, 3, 0, 1)])
    one = PatchConcept().double()(scene)
    assert torch.isfinite(one)
    doubled = make_scene([2, 2], [[0] * 3] * 2, [[1, 1]] * 2, texts=[1, 1], stated=[PRESENT] * 2,
                         mentions=[(0, 1, 3, 0, 1), (1, 1, 3, 0, 1)])  # fmt: skip
    kept = replace(
        doubled.embeddings,
        patches=scene.embeddings.patches.repeat(2, 1, 1),
        words=scene.embeddings.words.repeat(2, 1, 1),
    )
    both = PatchConcept(unknown="negative").double()(replace(doubled, embeddings=kept))
    assert both.item() == pytest.approx(one.item(), abs=1e-12)


def test_huge_logits_and_patches_of_zero_stay_finite(make_scene):
    scene = _two_visuals(make_scene)
    scene = replace(
        scene,
        embeddings=replace(
            scene.embeddings,
            patches=torch.zeros_like(scene.embeddings.patches),
            words=-1e30 * scene.embeddings.words,
        ),
    )
    scene, patches, words = _differentiable(scene)
    loss = PatchConcept(temperature=1e-6, bias=-1e6).double()(scene)
    loss.backward()
    assert torch.isfinite(loss)
    assert patches.grad.abs().max() == 0
    assert torch.isfinite(words.grad).all()


def test_a_zero_vector_stays_zero():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.bfloat16)
    out = unit_or_zero(x)
    assert out.dtype == torch.float32
    assert torch.allclose(out, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))


def test_the_config_has_the_arguments():
    config = PatchConceptConfig()
    arguments = config.model_dump(exclude={"kind", "name", "weight"})
    objective = PatchConcept(**arguments)
    assert objective.bias.item() == -10
    assert objective.scale().item() == pytest.approx(1 / 0.07)
    assert objective.share == 0
