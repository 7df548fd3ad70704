from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from medvlp.models.config import ModelConfig
from medvlp.models.parts import Packed, Seen, checkpointed, frames_at_once, in_parts
from medvlp.models.preprocess import normalise
from medvlp.models.vlp import VLP

VIT = {"library": "timm", "name": "test_vit", "kwargs": {"img_size": 32}}
CONV = {"kwargs": {"width": 4, "stages": 3}}


def build(frames: dict, tokenizer, **pooling) -> VLP:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "embed_dim": 8,
            "preprocess": {"size": 32},
            "frames": frames,
            "pooling": {"heads": 2, "hidden": 6, "frequencies": 4, **pooling},
            "text": {"layers": 1, "width": 16, "heads": 2, "max_tokens": 24},
        }
    )
    return VLP(config, len(tokenizer))


def inputs(lengths, size: int = 32):
    torch.manual_seed(1)
    n = sum(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    frames = torch.randint(0, 255, (n, 3, size, size), dtype=torch.uint8)
    return frames, offsets, torch.rand(n) * 50, torch.ones(len(lengths), dtype=torch.long)


def peak_bytes(run) -> int:
    """Most bytes of tensors alive at once beyond those that were there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = run()
    assert kept is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 7, 16, 1000])
def test_chunks_give_the_same_vectors(tokenizer, chunk):
    model = build(CONV, tokenizer).eval()
    packed = inputs([1, 20, 3, 9])
    whole = model.encode_visual(*packed, True)
    parts = model.encode_visual(*packed, True, chunk=chunk)
    for name in ("vector", "slice_weights", "patches"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("slices", ["gated", "self_attention"])
def test_memory_does_not_grow_with_a_series(tokenizer, slices):
    """But for what is kept of a frame: three vectors, and a handful in pooling."""
    model = build(CONV, tokenizer, slices=slices).eval()
    peaks = [
        peak_bytes(lambda n=n: model.encode_visual(*inputs([n]), chunk=16)) - n * 3 * 32 * 32
        for n in (64, 256)
    ]
    kept = (256 - 64) * 8 * model.frames.dim * 4
    if slices == "self_attention":
        kept += 256 * 256 * 2 * 4 * 3  # weights of each pair, read out
    assert peaks[1] - peaks[0] < kept
    whole = peak_bytes(lambda: model.encode_visual(*inputs([256]))) - 256 * 3 * 32 * 32
    assert whole > 3 * peaks[1]


@torch.no_grad()
def test_patches_are_kept_only_when_asked_for(tokenizer):
    model = build(CONV, tokenizer).eval()
    without, with_ = (
        peak_bytes(lambda t=t: model.encode_visual(*inputs([256]), t, chunk=16))
        for t in (False, True)
    )
    assert with_ - without > 0.9 * 256 * 16 * 8 * 4


def gradients(model: VLP, packed) -> dict[str, torch.Tensor]:
    model.zero_grad()
    features = model.encode_visual(*packed, True)
    (features.vector.square() * torch.arange(8.0)).sum().add(features.patches.sum()).backward()
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("at_once", [1, 5, 100])
def test_checkpointing_gives_the_same_gradients(tokenizer, at_once):
    packed = inputs([4, 1, 7])
    plain = gradients(build(VIT, tokenizer).train(), packed)
    again = gradients(build(VIT, tokenizer, checkpoint_frames=at_once).train(), packed)
    assert plain.keys() == again.keys()
    for key in plain:
        assert torch.allclose(plain[key], again[key], rtol=1e-3, atol=1e-5), key


def test_frames_come_back_in_order(tokenizer):
    model = build(VIT, tokenizer, checkpoint_frames=3).train()
    packed = inputs([4, 1, 6])
    parts = model.encode_visual(*packed, True)
    with torch.no_grad():
        whole = model.encode_visual(*packed, True)
    assert torch.allclose(parts.patches, whole.patches, atol=1e-5)
    assert torch.allclose(parts.slice_weights, whole.slice_weights, atol=1e-6)


def test_running_statistics_are_those_of_one_pass(tokenizer):
    packed = inputs([4, 1, 7])
    model, plain = (build(CONV, tokenizer, checkpoint_frames=5).train() for _ in range(2))
    gradients(model, packed)
    for i in range(3):  # what each part holds: every third frame
        plain.frames(normalise(packed[0], plain.config.preprocess)[i::3])
    for (name, buffer), other in zip(
        model.frames.named_buffers(), plain.frames.buffers(), strict=True
    ):
        assert torch.allclose(buffer, other, atol=1e-6), name


def test_batch_norm_sees_the_same_frames_on_the_way_back(tokenizer):
    """As gradients of the same parts without checkpointing."""
    packed = inputs([4, 1, 7])
    model = build(CONV, tokenizer, checkpoint_frames=5).train()
    again = gradients(model, packed)
    plain = build(CONV, tokenizer).train()
    order = torch.cat([torch.arange(i, 12, 3) for i in range(3)])
    see = plain.see

    def parted(packed: Packed, **asked) -> Seen:
        parts = Packed(packed.frames[order], packed.offsets, packed.positions[order])
        seen = in_parts(lambda part: see(part, **asked), parts, 4, by_sample=False)
        back = order.argsort()
        return Seen(*(v[back] if isinstance(v, torch.Tensor) else v for v in seen))

    plain.see = parted
    for key, expected in gradients(plain, packed).items():
        assert torch.allclose(again[key], expected, rtol=1e-3, atol=1e-5), key


def test_a_second_way_back_is_possible(tokenizer):
    """Some objectives ask for gradients twice."""
    packed = inputs([4, 1, 7])
    model = build(CONV, tokenizer, checkpoint_frames=5).train()
    loss = model.encode_visual(*packed).vector[0].sum()
    parameter = next(model.frames.parameters())
    first, second = (torch.autograd.grad(loss, parameter, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_checkpointing_needs_less_memory(tokenizer):
    def run(model):
        packed = inputs([96])
        model.encode_visual(*packed).vector.sum().backward()
        return model

    plain, again = (
        peak_bytes(lambda m=m: run(m))
        for m in (
            build(CONV, tokenizer).train(),
            build(CONV, tokenizer, checkpoint_frames=8).train(),
        )
    )
    assert again < 0.5 * plain


def test_without_gradients_or_in_evaluation_nothing_is_computed_again(tokenizer):
    model = build(CONV, tokenizer, checkpoint_frames=5)
    seen: list[int] = []
    model.frames.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    packed = inputs([4, 8])
    model.eval().encode_visual(*packed)
    with torch.no_grad():
        model.train().encode_visual(*packed)
    assert seen == [12, 12]
    model.encode_visual(*packed).vector.sum().backward()
    assert sorted(seen[2:]) == [4] * 6


def test_fewer_large_frames_go_together():
    assert [frames_at_once(size) for size in (64, 224, 448, 512, 4096)] == [64, 64, 16, 12, 1]


class Recorder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[tuple[list[int], list[int]]] = []

    def see(self, part: Packed) -> Seen:
        self.parts.append((part.offsets.tolist(), part.positions.int().tolist()))
        vectors = part.positions[:, None] + torch.zeros(1, 2)
        return Seen(vectors, vectors, vectors, (1, 1))


@pytest.mark.parametrize("again", [False, True])
def test_a_sample_stays_in_one_part(again):
    lengths, recorder = [2, 1, 9, 3, 3, 1], Recorder()
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    packed = Packed(torch.zeros(19, 3, 1, 1), offsets, torch.arange(19.0))
    if again:
        seen = checkpointed(recorder.see, packed, 4, recorder, by_sample=True)
    else:
        seen = in_parts(recorder.see, packed, 4, by_sample=True)
    assert [offsets for offsets, _ in recorder.parts] == [[0, 2, 3], [0, 9], [0, 3], [0, 3, 4]]
    assert [p for _, positions in recorder.parts for p in positions] == list(range(19))
    assert torch.equal(seen.mean[:, 0], packed.positions)


SERIES = """
import resource, torch
from medvlp.models.config import ModelConfig
from medvlp.models.vlp import VLP
torch.set_num_threads(1)
frames = torch.zeros(400, 3, 128, 128, dtype=torch.uint8).random_()
config = {"preprocess": {"size": 128}, "frames": {"kwargs": {"width": 8}}}
model = VLP(ModelConfig.model_validate(config), 50).eval()
for n in (32, 400):
    with torch.no_grad():
        kind, where = torch.tensor([1]), torch.arange(float(n))
        model.encode_visual(frames[:n], torch.tensor([0, n]), where, kind, chunk=16)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_a_process_needs_no_more_memory_for_a_long_series():
    done = subprocess.run(
        [sys.executable, "-c", SERIES], capture_output=True, check=True, timeout=250, text=True
    )
    few, many = map(int, done.stdout.split())
    assert many - few < 10_000_000
