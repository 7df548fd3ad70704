from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlp.batch import TextRole
from medvlp.errors import ConfigError
from medvlp.losses.contrast.config import InfoNCEConfig
from medvlp.losses.doubt import Doubt
from medvlp.losses.doubt_config import DoubtConfig
from medvlp.losses.objectives import Objectives
from medvlp.losses.video.config import HierarchyConfig, MilNCEConfig
from medvlp.models.config import ModelConfig
from medvlp.types import KINDS

B, BAD = 20, frozenset({1, 4, 8, 9, 13, 17})
CLIP = KINDS.index("clip")
LEAD, CHILD = int(TextRole.LEAD), int(TextRole.CHILD)


@pytest.fixture
def lecture(make_scene):
    """Clips with a lead and a child text each; those of the bad ones are another clip's."""

    def make(bad=BAD, seed=0):
        draw = torch.Generator().manual_seed(seed)
        visual = torch.randn(B, 64, generator=draw, dtype=torch.float64)
        visual = torch.nn.functional.normalize(visual, dim=-1)
        giver, wrong = list(range(B)), sorted(bad)
        for here, there in zip(wrong, wrong[1:] + wrong[:1], strict=True):
            giver[here] = there
        owner = [i for i in range(B) for _ in range(2)]
        target = [[int(i == j) for j in owner] for i in range(B)]
        scene = make_scene([1] * B, [[0]] * (2 * B), target, texts=[2] * B,
                           roles=[LEAD, CHILD] * B, dim=64)  # fmt: skip
        text = visual[giver].repeat_interleave(2, 0)
        embeddings = replace(scene.embeddings, visual=visual, text=text)
        return replace(
            scene,
            embeddings=embeddings,
            batch=replace(scene.batch, index=torch.arange(B), kind=torch.full((B,), CLIP)),
        )

    return make


def doubt(**settings_):
    return Doubt(DoubtConfig(refit_every=2, capacity=30, **settings_)).double()


def test_wrong_pairs_become_unknown_after_the_first_judgement_and_no_others(lecture):
    module, scene = doubt(), lecture()
    for _ in range(2):
        assert torch.equal(module(scene).target, scene.target)
    judged = module(scene).target
    for i in range(B):
        assert judged[i, 2 * i : 2 * i + 2].tolist() == ([-1, -1] if i in BAD else [1, 1])
    assert torch.equal(judged == 0, scene.target == 0)
    assert module.share() == pytest.approx(len(BAD) / B)
    assert not module.doubted[B:].any()


def test_only_the_kinds_named_are_judged(lecture):
    """A report that is hard to learn may be that of a rare disease."""
    module, scene = doubt(), lecture()
    kinds = scene.batch.kind.clone()
    kinds[4] = KINDS.index("image")
    scene = replace(scene, batch=replace(scene.batch, kind=kinds))
    for _ in range(3):
        judged = module(scene).target
    assert judged[4, 8:10].tolist() == [1, 1]
    assert judged[1, 2:4].tolist() == [-1, -1]
    assert module.pairs.losses[4].isnan()


def test_a_parents_text_is_doubted_with_its_own_clip_and_does_not_accuse_the_child(lecture):
    module, scene = doubt(), lecture()
    # The second text of clip 0 is that of clip 4, which is wrong; of clip 2 that of clip 3.
    source = torch.arange(B).repeat_interleave(2)
    text, keys = scene.embeddings.text.clone(), scene.batch.text_key.clone()
    for child, parent in ((0, 4), (2, 3)):
        source[2 * child + 1] = parent
        text[2 * child + 1] = text[2 * parent]
        keys[2 * child + 1] = keys[2 * parent]
    batch = replace(scene.batch, text_index=source, text_key=keys)
    scene = replace(scene, batch=batch, embeddings=replace(scene.embeddings, text=text))
    for _ in range(3):
        judged = module(scene).target
    assert set(module.doubted.nonzero()[:, 0].tolist()) == BAD
    assert judged[0, :2].tolist() == [1, -1]
    assert judged[2, 4:6].tolist() == [1, 1]
    assert judged[4, 8:10].tolist() == [-1, -1]
    assert module.pairs.losses[0] < 0.1 * module.pairs.losses[sorted(BAD)].min()


def test_a_parents_text_is_judged_by_the_clips_within_it(lecture):
    """The step 25 is not in the batch; clips 2 and 3 lie in it, and its text is another's."""
    module, scene = doubt(), lecture()
    source = torch.arange(B).repeat_interleave(2)
    text, keys = scene.embeddings.text.clone(), scene.batch.text_key.clone()
    for child in (2, 3):
        source[2 * child + 1] = 25
        text[2 * child + 1] = -text[2 * child]
        keys[2 * child + 1] = 99
    target = scene.target.clone()
    target[2, 7] = target[3, 5] = 1
    batch = replace(scene.batch, text_index=source, text_key=keys)
    scene = replace(
        scene, batch=batch, target=target, embeddings=replace(scene.embeddings, text=text)
    )
    for _ in range(3):
        judged = module(scene).target
    assert set(module.doubted.nonzero()[:, 0].tolist()) == BAD | {25}
    assert judged[2, 4:8].tolist() == [1, -1, 0, -1]
    assert judged[3, 4:8].tolist() == [0, -1, 1, -1]
    source[5] = 30
    with pytest.raises(ConfigError) as caught:
        module(scene)
    assert caught.value.code == "pair-noise-capacity"


def test_a_doubted_text_is_doubted_in_every_copy_and_only_for_its_own_visual(lecture):
    """Clips 1 (wrong) and 2 are told the same: unknown for clip 1, still right for clip 2."""
    module, scene = doubt(), lecture()
    keys, text, target = scene.batch.text_key.clone(), scene.embeddings.text.clone(), scene.target
    keys[2], text[2] = keys[4], text[4]
    target = target.clone()
    target[1, 4] = target[2, 2] = 1
    scene = replace(
        scene,
        target=target,
        batch=replace(scene.batch, text_key=keys),
        embeddings=replace(scene.embeddings, text=text),
    )
    for _ in range(3):
        judged = module(scene).target
    assert module.doubted[1]
    assert judged[1, 2:6].tolist() == [-1, -1, -1, 0]
    assert judged[2, 2:6].tolist() == [1, 0, 1, 1]


def test_a_pair_that_is_learnt_later_is_taken_back(lecture):
    module = doubt(momentum=0.0)
    for _ in range(3):
        module(lecture())
    healed = lecture(BAD - {4})
    for _ in range(3):
        seen = module(healed)
    assert seen.target[4, 8:10].tolist() == [1, 1]
    assert seen.target[1, 2:4].tolist() == [-1, -1]


@pytest.mark.parametrize("config", [InfoNCEConfig(), MilNCEConfig(), HierarchyConfig()])
def test_no_objective_draws_a_doubted_visual_to_its_text(lecture, config):
    scene = lecture()
    grown = scene.embeddings.visual.clone().requires_grad_()
    scene = replace(scene, embeddings=replace(scene.embeddings, visual=grown))
    towards = {}
    for trusted in (True, False):
        objectives = Objectives([config], ModelConfig(), doubt=DoubtConfig(capacity=30))
        objectives = objectives.double().eval()
        assert objectives.doubt is not None
        if not trusted:
            objectives.doubt.pairs.noise[sorted(BAD)] = 1.0
        (gradient,) = torch.autograd.grad(objectives(scene)["loss"], grown)
        own = scene.embeddings.text[::2]
        towards[trusted] = -(gradient * own).sum(1)
    for i in range(B):
        assert towards[True][i] > 0
        # Away from other texts is by chance a little towards its own.
        kept = float(towards[False][i] / towards[True][i])
        assert kept < 0.05 if i in BAD else kept > 0.5


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 1000), bad=st.sets(st.integers(0, B - 1), min_size=2, max_size=7))
def test_the_order_of_a_batch_does_not_matter(lecture, seed, bad):
    scene = lecture(bad, seed)
    one, other = doubt(), doubt()
    order = torch.randperm(B, generator=torch.Generator().manual_seed(seed))
    texts = torch.stack([2 * order, 2 * order + 1], 1).flatten()
    embeddings = replace(
        scene.embeddings,
        visual=scene.embeddings.visual[order],
        text=scene.embeddings.text[texts],
    )
    turned = replace(
        scene,
        batch=replace(scene.batch, index=order),
        embeddings=embeddings,
        target=scene.target[order][:, texts],
    )
    for _ in range(2):
        one(scene)
        other(turned)
    assert torch.equal(one.doubted, other.doubted)


def test_outside_of_training_nothing_is_kept(lecture):
    module = doubt().eval()
    for _ in range(4):
        module(lecture())
    assert module.pairs.losses.isnan().all()
    assert module.share() == 0


def test_the_share_of_doubted_pairs_is_logged_where_there_is_doubt(lecture):
    objectives = Objectives([InfoNCEConfig()], ModelConfig(), doubt=DoubtConfig(capacity=30))
    assert objectives.figures()["doubted"] == 0
    assert "doubted" not in Objectives([InfoNCEConfig()], ModelConfig()).figures()
