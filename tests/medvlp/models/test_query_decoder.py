from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.models.query_decoder import Attention, QueryDecoder

WIDTH = 8


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def decoder(**changes) -> QueryDecoder:
    torch.manual_seed(0)
    settings_ = {"layers": 2, "heads": 2, "ffn": 12} | changes
    made = QueryDecoder(WIDTH, **settings_).double().eval().requires_grad_(False)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def offsets_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


def line(layer, x):
    return [
        sum(float(w) * v for w, v in zip(row, x, strict=True)) + float(bias)
        for row, bias in zip(layer.weight, layer.bias, strict=True)
    ]


def layer_norm(norm, x):
    mean = sum(x) / len(x)
    spread = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + norm.eps)
    return [
        (v - mean) / spread * float(w) + float(b)
        for v, w, b in zip(x, norm.weight, norm.bias, strict=True)
    ]


def naive_attention(part: Attention, query, memory):
    """One query over a list of items, number by number."""
    q = line(part.query, query)
    keys, values = [line(part.key, m) for m in memory], [line(part.value, m) for m in memory]
    size = len(q) // part.heads
    read, shares = [], [0.0] * len(memory)
    for head in range(part.heads):
        span = range(head * size, (head + 1) * size)
        logits = [sum(q[c] * key[c] for c in span) / math.sqrt(size) for key in keys]
        mass = [math.exp(value - max(logits)) for value in logits]
        weights = [m / sum(mass) for m in mass]
        read += [sum(w * v[c] for w, v in zip(weights, values, strict=True)) for c in span]
        shares = [s + w / part.heads for s, w in zip(shares, weights, strict=True)]
    return line(part.out, read), shares


def naive(made: QueryDecoder, queries, patches, lengths):
    """Sample by sample and query by query, with lists of numbers."""
    answers, maps = [], []
    for i, (start, end) in enumerate(itertools.pairwise(offsets_of(lengths).tolist())):
        memory = patches[start:end].flatten(0, 1).tolist()
        states, shares = queries[i].tolist(), [[0.0] * len(memory) for _ in queries[i]]
        for layer in made.layers:
            if layer.look_around is not None:
                normed = [layer_norm(layer.norm_around, x) for x in states]
                seen = [naive_attention(layer.look_around, x, normed)[0] for x in normed]
                states = [
                    [a + b for a, b in zip(x, y, strict=True)]
                    for x, y in zip(states, seen, strict=True)
                ]
            for j, x in enumerate(states):
                read, weights = naive_attention(layer.look, layer_norm(layer.norm_look, x), memory)
                x = [a + b for a, b in zip(x, read, strict=True)]
                hidden = [max(0.0, v) for v in line(layer.ffn[0], layer_norm(layer.norm_ffn, x))]
                states[j] = [a + b for a, b in zip(x, line(layer.ffn[3], hidden), strict=True)]
                shares[j] = [
                    s + w / len(made.layers) for s, w in zip(shares[j], weights, strict=True)
                ]
        answers.append([layer_norm(made.norm, x) for x in states])
        maps += torch.tensor(shares).reshape(len(shares), end - start, -1).transpose(0, 1)
    return torch.tensor(answers, dtype=torch.float64), torch.stack(maps).double()


@pytest.mark.parametrize("self_attention", [False, True])
@pytest.mark.parametrize("lengths", [[1], [2, 1, 2]])
def test_the_decoder_equals_lists_of_numbers(lengths, self_attention):
    made = decoder(self_attention=self_attention)
    queries, patches = draw(len(lengths), 3, WIDTH), draw(sum(lengths), 4, WIDTH, seed=1)
    read = made(queries, patches, offsets_of(lengths), True)
    answers, maps = naive(made, queries, patches, lengths)
    assert torch.allclose(read.answers, answers, atol=1e-9)
    assert torch.allclose(read.attention, maps, atol=1e-6)


@pytest.mark.parametrize("self_attention", [False, True])
def test_maps_do_not_change_the_answers(self_attention):
    made = decoder(self_attention=self_attention)
    asked = (draw(2, 3, WIDTH), draw(3, 4, WIDTH, seed=1), offsets_of([1, 2]))
    without = made(*asked)
    assert without.attention is None
    assert torch.allclose(without.answers, made(*asked, True).answers, atol=1e-10)


lengths_strategy = st.lists(st.integers(1, 4), min_size=1, max_size=5)


@settings(max_examples=20, deadline=None)
@given(lengths=lengths_strategy, seed=st.integers(0, 99))
def test_a_sample_does_not_depend_on_its_batch(lengths, seed):
    made = decoder().float()
    queries = draw(len(lengths), 2, WIDTH, seed=seed).float()
    patches = draw(sum(lengths), 5, WIDTH, seed=seed + 1).float()
    together = made(queries, patches, offsets_of(lengths), True)
    for i, (start, end) in enumerate(itertools.pairwise(offsets_of(lengths).tolist())):
        alone = made(queries[i : i + 1], patches[start:end], offsets_of([end - start]), True)
        assert torch.allclose(alone.answers[0], together.answers[i], atol=1e-6)
        assert torch.allclose(alone.attention, together.attention[start:end], atol=1e-6)


def test_permuted_samples_give_permuted_answers():
    lengths, order = [2, 1, 3, 1], [2, 0, 3, 1]
    queries, patches = draw(4, 2, WIDTH), draw(7, 3, WIDTH, seed=1)
    spans = [range(i, j) for i, j in itertools.pairwise(offsets_of(lengths).tolist())]
    frames = [frame for i in order for frame in spans[i]]
    made = decoder()
    plain = made(queries, patches, offsets_of(lengths), True)
    moved = made(queries[order], patches[frames], offsets_of([lengths[i] for i in order]), True)
    assert torch.allclose(moved.answers, plain.answers[order], atol=1e-10)
    assert torch.allclose(moved.attention, plain.attention[frames], atol=1e-10)


def test_an_answer_does_not_depend_on_what_else_is_asked():
    queries, patches = draw(2, 5, WIDTH), draw(3, 4, WIDTH, seed=1)
    made = decoder()
    together = made(queries, patches, offsets_of([1, 2])).answers
    alone = made(queries[:, 3:4], patches, offsets_of([1, 2])).answers
    assert torch.allclose(alone, together[:, 3:4], atol=1e-10)


def test_with_self_attention_an_answer_depends_on_what_else_is_asked():
    queries, patches = draw(2, 5, WIDTH), draw(3, 4, WIDTH, seed=1)
    made = decoder(self_attention=True)
    together = made(queries, patches, offsets_of([1, 2])).answers
    alone = made(queries[:, 3:4], patches, offsets_of([1, 2])).answers
    assert (alone - together[:, 3:4]).abs().max() > 1e-3


def test_attention_sums_to_one_over_a_sample():
    read = decoder()(draw(2, 3, WIDTH), draw(5, 4, WIDTH, seed=1), offsets_of([2, 3]), True)
    assert torch.allclose(read.attention[:2].sum((0, 2)), torch.ones(3).double())
    assert torch.allclose(read.attention[2:].sum((0, 2)), torch.ones(3).double())


def test_no_query_gives_no_answer():
    read = decoder()(draw(2, 0, WIDTH), draw(3, 4, WIDTH), offsets_of([1, 2]), True)
    assert read.answers.shape == (2, 0, WIDTH)
    assert read.attention.shape == (3, 0, 4)
    assert decoder()(draw(2, 0, WIDTH), draw(3, 4, WIDTH), offsets_of([1, 2])).answers.numel() == 0


def test_dropout_acts_in_training_only():
    made = decoder(dropout=0.5)
    asked = (draw(1, 3, WIDTH), draw(2, 4, WIDTH, seed=1), offsets_of([2]))
    for shares in (False, True):
        made.eval()
        assert torch.equal(made(*asked, shares).answers, made(*asked, shares).answers)
        made.train()
        first, second = made(*asked, shares), made(*asked, shares)
        assert (first.answers - second.answers).abs().max() > 1e-3


def test_the_decoder_passes_gradcheck():
    made = decoder(layers=1)
    queries, patches = (
        draw(2, 2, WIDTH).requires_grad_(),
        draw(3, 2, WIDTH, seed=1).requires_grad_(),
    )
    assert torch.autograd.gradcheck(
        lambda q, p: made(q, p, offsets_of([1, 2])).answers, (queries, patches)
    )


def test_huge_patches_give_finite_answers():
    read = decoder()(draw(1, 2, WIDTH), 1e6 * draw(2, 3, WIDTH, seed=1), offsets_of([2]), True)
    assert read.answers.isfinite().all()
    assert read.attention.isfinite().all()


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="divide"):
        QueryDecoder(7, heads=2)
