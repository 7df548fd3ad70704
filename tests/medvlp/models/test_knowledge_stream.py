from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.models.config import FusionConfig
from medvlp.models.fusion import FusionEncoder
from medvlp.models.knowledge_stream import (
    MOST_ENTITIES,
    Knowledge,
    KnowledgeStream,
    gather_knowledge,
)


def random(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def slow_gather(names, slots, mentions, texts, length, hidden):
    """Text by text: [(vector, span), ...]."""
    out = []
    for row, text in enumerate(texts):
        told = set()
        for m in mentions:
            if m[0] == text and any(hidden[row][place] for place in range(m[1], min(m[2], length))):
                told.add(m[3])
        found = []
        for m in mentions:
            if m[0] != text or m[3] in told or 3 * m[3] not in slots or m[1] >= length:
                continue
            span = [m[1] <= place < m[2] for place in range(length)]
            found.append((names[slots.index(3 * m[3])], span))
        out.append(found[:MOST_ENTITIES])
    return out


mention = st.tuples(
    st.integers(0, 3), st.integers(0, 6), st.integers(1, 3), st.integers(0, 4), st.integers(-1, 1)
).map(lambda m: (m[0], m[1], m[1] + m[2], m[3], m[4]))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(mention, max_size=12), st.lists(st.integers(-1, 3), min_size=1, max_size=5),
    st.integers(0, 100),
)  # fmt: skip
def test_gather_equals_the_slow_loop(mentions, texts, seed):
    length, slots = 6, [3, 0, 12]
    names = random(3, 4, seed=seed)
    hidden = random(len(texts), length, seed=seed + 1) > 1
    got = gather_knowledge(
        names, torch.tensor(slots), torch.tensor(mentions, dtype=torch.long).reshape(-1, 5),
        torch.tensor(texts), length, hidden,
    )  # fmt: skip
    wanted = slow_gather(names, slots, mentions, texts, length, hidden.tolist())
    assert got.mask.sum(1).tolist() == [len(row) for row in wanted]
    for i, row in enumerate(wanted):
        for c, (vector, span) in enumerate(row):
            assert torch.equal(got.vectors[i, c], vector)
            assert got.spans[i, c].tolist() == span
        assert not got.spans[i, len(row) :].any()


def test_a_concept_that_must_be_guessed_is_not_told_anywhere_in_its_text():
    mentions = torch.tensor([[0, 1, 3, 0, 1], [0, 5, 6, 0, -1], [0, 3, 4, 1, 1], [1, 1, 2, 0, 1]])
    hidden = torch.zeros(2, 8, dtype=torch.bool)
    hidden[0, 2] = True
    got = gather_knowledge(
        random(2, 4), torch.tensor([0, 3]), mentions, torch.tensor([0, 1]), 8, hidden
    )
    assert got.mask.tolist() == [[True], [True]]
    assert got.spans[0].nonzero().tolist() == [[0, 3]]


def test_a_text_with_many_concepts_keeps_the_first():
    mentions = torch.tensor([[0, i, i + 1, 0, 1] for i in range(40)])
    got = gather_knowledge(random(1, 4), torch.tensor([0]), mentions, torch.tensor([0]), 50)
    assert got.mask.shape == (1, MOST_ENTITIES)
    assert got.spans[0].nonzero()[:, 1].tolist() == list(range(MOST_ENTITIES))


def test_nothing_asked_and_nothing_named_give_nothing():
    empty = torch.zeros(0, 5, dtype=torch.long)
    one = torch.tensor([[0, 1, 2, 0, 1]])
    texts, slots = torch.tensor([0, 0]), torch.tensor([0])
    assert gather_knowledge(random(1, 4), slots, empty, texts, 3).mask.shape == (2, 0)
    assert gather_knowledge(random(0, 4), slots[:0], one, texts, 3).mask.shape == (2, 0)
    assert gather_knowledge(random(1, 4), slots, one, texts[:0], 3).mask.shape == (0, 0)


def encoder() -> FusionEncoder:
    torch.manual_seed(0)
    config = FusionConfig(layers=1, heads=2, width=8, grid=2, knowledge=True)
    return FusionEncoder(4, config).double()


@torch.no_grad()
def test_only_the_words_that_name_a_concept_are_added_to():
    stream = KnowledgeStream(4, 8, 2).double()
    visual, there = random(2, 3, 8), torch.ones(2, 3, dtype=torch.bool)
    knowledge = gather_knowledge(
        random(2, 4), torch.tensor([0, 3]), torch.tensor([[0, 1, 3, 0, 1], [0, 2, 4, 1, 1]]),
        torch.tensor([0, 1]), 6,
    )  # fmt: skip
    added = stream(knowledge, visual, there)
    assert (added.abs().sum(2) > 0).tolist() == [
        [False, True, True, True, False, False],
        [False] * 6,
    ]
    # Both concepts are named by token 2.
    assert torch.allclose(added[0, 2], added[0, 1] + added[0, 3], atol=1e-12)


@torch.no_grad()
def test_padding_of_concepts_and_batch_do_not_change_what_is_added():
    stream = KnowledgeStream(4, 8, 2).double()
    visual, there = random(2, 3, 8), torch.tensor([[True, True, False], [True, True, True]])
    vectors, spans = random(2, 3, 4), random(2, 3, 5, seed=1) > 0
    mask = torch.tensor([[True, True, False], [True, True, True]])
    spans = spans & mask[..., None]
    together = stream(Knowledge(vectors, mask, spans), visual, there)
    alone = stream(
        Knowledge(vectors[:1, :2], mask[:1, :2], spans[:1, :2]), visual[:1, :2], there[:1, :2]
    )
    assert torch.allclose(together[:1], alone, atol=1e-12)


@torch.no_grad()
def test_knowledge_changes_the_fusion_and_its_absence_is_finite():
    model = encoder()
    visual, words = random(2, 4, 4), random(2, 6, 4, seed=1)
    there = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 6, dtype=torch.bool)
    knowledge = gather_knowledge(
        random(2, 4), torch.tensor([0, 3]), torch.tensor([[0, 1, 3, 0, 1]]),
        torch.tensor([0, 1]), 6,
    )  # fmt: skip
    without = model(visual, there[0], words, there[1])
    told = model(visual, there[0], words, there[1], knowledge=knowledge)
    assert (without.word_cls[0] - told.word_cls[0]).abs().max() > 1e-5
    assert torch.allclose(without.word_cls[1], told.word_cls[1], atol=1e-12)


def test_gradients_reach_the_stream_and_the_names():
    model, names = encoder(), random(1, 4).requires_grad_()
    knowledge = gather_knowledge(
        names, torch.tensor([0]), torch.tensor([[0, 0, 1, 0, 1]]), torch.tensor([0]), 2
    )
    there = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    out = model(random(1, 4, 4), there[0], random(1, 2, 4), there[1], knowledge=knowledge)
    out.word_cls[:, 0].sum().backward()
    assert names.grad.abs().max() > 0
    assert [name for name, p in model.knowledge.named_parameters() if p.grad is None] == []
