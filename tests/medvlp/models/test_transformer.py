from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.nn import functional

from medvlp.models.transformer import AttentionStep, FeedForwardStep, SelfLayer


def random(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def slow_attention(step, x, context, mask):
    """One query, one head, one key at a time."""
    heads, d = step.heads, x.shape[2]
    c = d // heads
    asking = functional.layer_norm(x, (d,), step.norm.weight, step.norm.bias)
    if context is None:
        answering = asking
    else:
        norm = step.context_norm
        answering = functional.layer_norm(context, (d,), norm.weight, norm.bias)
    out = torch.zeros_like(x)
    for k in range(len(x)):
        for i in range(x.shape[1]):
            read = []
            for head in range(heads):
                part = slice(head * c, (head + 1) * c)
                q = (step.query.weight @ asking[k, i] + step.query.bias)[part]
                weights, values = [], []
                for j in range(answering.shape[1]):
                    if not mask[k, j]:
                        continue
                    both = step.key_value.weight @ answering[k, j] + step.key_value.bias
                    weights.append(math.exp(float(q @ both[:d][part]) / math.sqrt(c)))
                    values.append(both[d:][part])
                total = sum(weights)
                read.append(sum(w / total * v for w, v in zip(weights, values, strict=True)))
            out[k, i] = x[k, i] + step.out.weight @ torch.cat(read) + step.out.bias
    return out


@torch.no_grad()
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_attention_equals_the_slow_loop(seed, cross):
    torch.manual_seed(seed)
    step = AttentionStep(4, 2, cross=cross).double()
    x, context = random(2, 3, 4, seed=seed), random(2, 5, 4, seed=seed + 1) if cross else None
    mask = torch.rand(2, 5 if cross else 3) < 0.6
    mask[:, 0] = True
    assert torch.allclose(
        step(x, mask, context), slow_attention(step, x, context, mask), atol=1e-10
    )


@torch.no_grad()
def test_a_row_without_context_is_finite():
    step = AttentionStep(4, 2, cross=True).double()
    out = step(random(2, 3, 4), torch.zeros(2, 5, dtype=torch.bool), random(2, 5, 4))
    assert torch.isfinite(out).all()


@torch.no_grad()
def test_feed_forward_is_added_to_its_input():
    step = FeedForwardStep(4).double()
    x = random(2, 3, 4)
    hidden = functional.gelu(step.inner[1](functional.layer_norm(x, (4,))))
    assert torch.allclose(step(x), x + step.inner[3](hidden), atol=1e-12)


@torch.no_grad()
def test_a_layer_is_equivariant_to_the_order_of_tokens():
    layer = SelfLayer(8, 2).double()
    x, mask = random(2, 5, 8), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(layer(x, mask)[:, order], layer(x[:, order], mask[:, order]), atol=1e-12)


def test_gradcheck():
    layer = SelfLayer(4, 2).double()
    x = random(1, 3, 4).requires_grad_()
    mask = torch.tensor([[True, True, False]])
    assert gradcheck(lambda y: layer(y, mask), (x,))


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_huge_inputs_stay_finite(scale):
    layer = SelfLayer(4, 2)
    x = (scale * random(1, 3, 4).float()).requires_grad_()
    layer(x, torch.ones(1, 3, dtype=torch.bool)).sum().backward()
    assert torch.isfinite(x.grad).all()
