from __future__ import annotations

import importlib
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.nn import functional

from medvlp.batch import Asked, QuestionRole
from medvlp.losses.fusion.masked_text import (
    MaskedText,
    corrupt,
    draw_share,
    hide_mentions,
    hide_words,
)
from medvlp.models.fusion import gather_visual


def bools(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.bool)


def words_of(plain, continuing):
    """Lists of places, word by word."""
    words: list[list[int]] = []
    for place, there in enumerate(plain):
        if not there:
            continue
        if continuing[place] and place > 0 and plain[place - 1]:
            words[-1].append(place)
        else:
            words.append([place])
    return words


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=30), st.floats(0.01, 1), st.integers(0, 1000))
def test_a_share_of_every_owner_at_least_one(owner, share, seed):
    torch.manual_seed(seed)
    chosen = draw_share(torch.tensor(owner, dtype=torch.long), share)
    for i in set(owner):
        units = [bool(c) for c, o in zip(chosen, owner, strict=True) if o == i]
        assert sum(units) == max(1, round(share * len(units)))


def test_every_unit_is_drawn_equally_often():
    torch.manual_seed(0)
    owner = torch.tensor([1, 0, 1, 0, 1])
    count = sum(draw_share(owner, 0.5).long() for _ in range(3000)) / 3000
    assert torch.allclose(count, torch.tensor([2 / 3, 0.5, 2 / 3, 0.5, 2 / 3]), atol=0.04)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.9))
def test_whole_words_are_hidden(seed, rate):
    torch.manual_seed(seed)
    plain, continuing = torch.rand(4, 9) < 0.7, torch.rand(4, 9) < 0.5
    plain[3] = False
    hidden = hide_words(plain, continuing, rate)
    assert not (hidden & ~plain).any()
    for row in range(4):
        words = words_of(plain[row].tolist(), continuing[row].tolist())
        states = [{bool(hidden[row, place]) for place in word} for word in words]
        assert all(len(state) == 1 for state in states)
        wanted = max(1, round(rate * len(words))) if words else 0
        assert sum(state == {True} for state in states) == wanted


def test_nothing_plain_hides_nothing():
    assert not hide_words(bools([[0, 0]]), bools([[0, 1]]), 0.5).any()


def test_a_concept_is_hidden_with_all_its_mentions():
    plain = torch.ones(3, 8, dtype=torch.bool)
    plain[:, 0] = False
    mentions = torch.tensor(
        [[5, 1, 3, 7, 1], [5, 5, 6, 7, -1], [5, 2, 5, 8, 1], [9, 0, 1, 7, 1], [2, 3, 4, 1, 1]]
    )
    texts = torch.tensor([9, 5, 4])
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        hidden = hide_mentions(plain, mentions, texts, 0.5)
        # Text 9 names a concept only where nothing may be hidden; text 4 names none.
        assert not hidden[0].any()
        assert not hidden[2].any()
        seen.add(tuple(hidden[1].nonzero()[:, 0].tolist()))
    assert seen == {(1, 2, 5), (2, 3, 4)}


def test_both_of_two_concepts_are_hidden_at_full_rate():
    plain = torch.ones(1, 6, dtype=torch.bool)
    mentions = torch.tensor([[0, 1, 2, 0, 1], [0, 4, 9, 3, 1]])
    hidden = hide_mentions(plain, mentions, torch.tensor([0]), 1.0)
    assert hidden.tolist() == [[False, True, False, False, True, True]]


def test_eighty_ten_ten():
    torch.manual_seed(0)
    tokens = torch.full((200, 200), 7)
    hidden = torch.rand(200, 200) < 0.5
    ordinary = torch.arange(5, 60)
    out = corrupt(tokens, hidden, 4, ordinary)
    assert torch.equal(out[~hidden], tokens[~hidden])
    inside = out[hidden]
    share = torch.bincount(inside, minlength=60) / len(inside)
    assert share[4].item() == pytest.approx(0.8, abs=0.01)
    assert share[7].item() == pytest.approx(0.1 + 0.1 / 55, abs=0.01)
    assert (share[:4] == 0).all()
    assert share[5:].min() > 0


def build(vocabulary, **settings_) -> MaskedText:
    torch.manual_seed(3)
    return MaskedText(**vocabulary, **settings_)


def in_float64(scene):
    """The scene, the fusion and a table of words in double precision (towers give float32)."""
    e = scene.embeddings
    draw = torch.Generator().manual_seed(2)
    table = torch.randn(60, e.text.shape[1], generator=draw, dtype=torch.float64)
    scene.model.encode_words = lambda tokens, mask: table[tokens] * mask[..., None]
    scene.model.fusion.double()
    doubled = replace(e, visual=e.visual.double(), text=e.text.double(), patches=e.patches.double())
    return replace(scene, embeddings=doubled, model=scene.model.eval())


@torch.no_grad()
def test_the_objective_equals_texts_fused_one_by_one(make_fused, vocabulary, monkeypatch):
    scene = in_float64(make_fused([2, 1, 3], [1, 1, 2]))
    objective = build(vocabulary, rate=0.5).double()
    module = importlib.import_module("medvlp.losses.fusion.masked_text")
    kept = {}

    def remember(tokens, hidden, *rest):
        kept["hidden"], kept["out"] = hidden, corrupt(tokens, hidden, *rest)
        return kept["out"]

    monkeypatch.setattr(module, "corrupt", remember)
    got = objective(scene)
    e, batch, model = scene.embeddings, scene.batch, scene.model
    total, count = 0.0, 0
    for row in range(3):
        start, end = batch.offsets[row], batch.offsets[row + 1]
        cells, there = gather_visual(e.patches[start:end], torch.tensor([0, end - start]), 3)
        length = int(batch.token_mask[row].sum())
        mask = torch.ones(1, length, dtype=torch.bool)
        words = model.encode_words(kept["out"][row : row + 1, :length], mask)
        fused = model.fusion(cells, there, words, mask, cells=9)
        for place in range(length):
            if kept["hidden"][row, place]:
                logits = objective.head(fused.word_layers[-1][0, place]).tolist()
                chance = math.exp(logits[int(batch.tokens[row, place])])
                total -= math.log(chance / sum(math.exp(logit) for logit in logits))
                count += 1
    assert count >= 3
    assert got.item() == pytest.approx(total / count, abs=1e-9)


def test_gradients_pass_gradcheck(make_fused, vocabulary):
    scene = in_float64(make_fused([1, 2], words=[[5, 41], [7, 8]]))
    objective = build(vocabulary, rate=0.5).double()
    own = scene.embeddings.patches
    along = torch.randn(own.shape, generator=torch.Generator().manual_seed(1), dtype=own.dtype)

    def loss(step, bias):
        torch.manual_seed(0)  # the same words are hidden at every call
        moved = replace(scene.embeddings, patches=own + step * along)
        given_bias = {"head.4.bias": bias}
        return torch.func.functional_call(objective, given_bias, replace(scene, embeddings=moved))

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    bias = objective.head[4].bias.detach().clone().requires_grad_()
    assert gradcheck(loss, (step, bias))


@pytest.mark.parametrize("entities", [None, "mentions"])
@pytest.mark.parametrize("seed", range(5))
def test_special_tokens_are_never_hidden_and_every_text_has_a_hidden_word(
    make_fused, vocabulary, monkeypatch, entities, seed
):
    mentions = [[0, 0, 3, 1, 1], [1, 1, 9, 0, 1]]
    scene = make_fused([1, 2, 1], mentions=mentions, seed=seed)
    module = importlib.import_module("medvlp.losses.fusion.masked_text")
    seen = {}

    def remember(tokens, hidden, *rest):
        seen["hidden"], seen["tokens"] = hidden, tokens
        return corrupt(tokens, hidden, *rest)

    monkeypatch.setattr(module, "corrupt", remember)
    torch.manual_seed(seed)
    build(vocabulary, entities=entities)(scene)
    special = seen["tokens"] < 5
    assert not (seen["hidden"] & special).any()
    assert (seen["hidden"].sum(1) >= 1).all()
    if entities:
        last = int((~special[1]).nonzero().max())
        assert seen["hidden"][1].nonzero()[:, 0].tolist() == list(range(1, last + 1))


def test_a_batch_without_words_gives_zero(make_fused, vocabulary):
    scene = make_fused([1, 1], [1, 0], words=[[]])
    loss = build(vocabulary)(scene)
    loss.backward()
    assert loss.item() == 0
    empty = make_fused([1, 1], [0, 0])
    assert build(vocabulary)(empty).item() == 0


def test_the_batch_is_left_as_it_was(make_fused, vocabulary):
    scene = make_fused([1, 2])
    before = scene.batch.tokens.clone()
    build(vocabulary, rate=1.0)(scene)
    assert torch.equal(scene.batch.tokens, before)


def test_the_draw_follows_the_random_state(make_fused, vocabulary):
    scene, objective = make_fused([1] * 4), build(vocabulary)
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(objective(scene).item())
    assert values[0] == values[1]
    assert values[0] != values[2]


def test_the_visual_tells_the_hidden_word(make_fused, vocabulary, embed_again):
    """All texts are one word: only the visual can tell which."""
    scene = make_fused([1, 1, 1], words=[[5], [19], [33]])
    objective = build(vocabulary)
    parameters = [*objective.parameters(), *scene.model.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    for step in range(60):
        torch.manual_seed(step)
        loss = objective(embed_again(scene))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5  # 1.1 without the visual
    assert scene.model.frames.network.stages[0][0].weight.grad.abs().max() > 0


def with_names(make_model, make_fused):
    model = make_model(knowledge=True)
    asked = Asked(
        tokens=torch.zeros(2, 1, dtype=torch.long),
        mask=torch.ones(2, 1, dtype=torch.bool),
        role=torch.full((2,), int(QuestionRole.NAME)),
        subject=torch.arange(2),
        slots=torch.tensor([0, 3]),
        relations=torch.zeros(2, 2, 0, dtype=torch.int8),
    )
    questions = functional.normalize(torch.randn(2, 8), dim=1)
    mentions = [[0, 1, 3, 0, 1], [1, 2, 3, 1, -1]]
    words = [[5, 41, 9], [6, 7, 8]]
    return make_fused(
        [1, 1], words=words, mentions=mentions, model=model, asked=asked, questions=questions
    )


def test_a_hidden_concept_is_removed_from_the_knowledge(make_model, make_fused, vocabulary):
    """What the knowledge stream would tell is the answer itself."""
    scene = with_names(make_model, make_fused)
    scene.model.eval()
    objective = build(vocabulary, entities="mentions")
    values = []
    for questions in (scene.questions, -scene.questions):
        torch.manual_seed(0)
        values.append(objective(replace(scene, questions=questions)).item())
    assert values[0] == values[1]


def test_a_concept_that_is_not_hidden_is_told(make_model, make_fused, vocabulary, monkeypatch):
    scene = with_names(make_model, make_fused)
    scene.model.eval()
    objective = build(vocabulary)
    module = importlib.import_module("medvlp.losses.fusion.masked_text")
    last = torch.tensor([[False, False, False, True, False]] * 2)
    monkeypatch.setattr(module, "hide_words", lambda *_: last)
    values = []
    for questions in (scene.questions, -scene.questions):
        torch.manual_seed(0)
        values.append(objective(replace(scene, questions=questions)).item())
    assert values[0] != values[1]
