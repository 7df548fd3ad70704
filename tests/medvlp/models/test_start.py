"""Starting from open_clip models: random ones, written as they lie on the hub, without network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import BertConfig

from medvlp.errors import CheckpointError, ConfigError
from medvlp.models.checkpoint import load_encoder, save_model
from medvlp.models.clip_text import clip_tokenizer
from medvlp.models.config import ModelConfig, WeightsRef
from medvlp.models.encoder import Encoder
from medvlp.models.start import resolve_start
from medvlp.models.text import hf_tokenizer
from medvlp.models.tokens import TextTokenizer
from medvlp.models.vlp import VLP
from medvlp.types import Visual

TEXTS = ["There is a nodule.", "No nodule.", "Small left pleural effusion, as before."]
LONG = " ".join(["effusion"] * 60)
PIXELS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
VIT = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
NATIVE = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
BERT = {
    "model_type": "bert", "hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
HF = {
    "hf_model_name": "owner/bert", "hf_tokenizer_name": "owner/bert", "context_length": 24,
    "hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler",
}  # fmt: skip
TIMM = {
    "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "",
    "timm_proj": "linear", "image_size": 160,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "clip": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": NATIVE},
    "clip with quick gelu": {
        "embed_dim": 24, "vision_cfg": VIT, "text_cfg": NATIVE, "quick_gelu": True
    },
    "custom text, biased projection": {
        "embed_dim": 24, "vision_cfg": VIT, "text_cfg": {**NATIVE, "proj_bias": True},
        "custom_text": True, "init_logit_bias": -10,
    },
    "residual net": {
        "embed_dim": 24, "text_cfg": NATIVE,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "patch_size": None},
    },
    "average pool": {
        "embed_dim": 24, "vision_cfg": {**VIT, "pool_type": "avg"}, "text_cfg": NATIVE,
    },
    "biomedclip": {"embed_dim": 16, "vision_cfg": TIMM, "text_cfg": HF},
    "hf text, mean, linear": {
        "embed_dim": 24, "vision_cfg": VIT,
        "text_cfg": {**HF, "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"},
    },
    "hf text, its own pooler, no projection": {
        "embed_dim": 20, "vision_cfg": VIT,
        "text_cfg": {**HF, "hf_pooler_type": "cls_pooler", "hf_proj_type": None},
    },
    "timm convolutions": {
        "embed_dim": 16, "text_cfg": HF,
        "vision_cfg": {**TIMM, "timm_model_name": "test_resnet", "timm_pool": "avg",
                       "timm_proj": "mlp", "image_size": 64},
    },
}  # fmt: skip


class Published:
    """A random open_clip model, and its folder as on the hub."""

    def __init__(self, folder: Path, config: dict[str, Any], tokenizer: TextTokenizer) -> None:
        folder.mkdir()
        self.folder = folder
        self.config = config
        self.hf = bool(config["text_cfg"].get("hf_model_name"))
        description = {"model_cfg": config, "preprocess_cfg": PIXELS}
        (folder / "open_clip_config.json").write_text(json.dumps(description))
        self.tokenizer = clip_tokenizer(24)
        if self.hf:
            bert = BertConfig(**{**BERT, "vocab_size": len(tokenizer)})
            bert.save_pretrained(folder)
            (folder / "tokenizer.json").write_text(tokenizer.to_json(), "utf-8")
            self.tokenizer = tokenizer
        torch.manual_seed(4)
        self.model = self._own_model(folder).eval()
        self._spread()
        state = {key: value.contiguous() for key, value in self.model.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors")

    def _own_model(self, folder: Path) -> Any:
        """What open_clip makes of it, by a config of its registry."""
        config = json.loads(json.dumps(self.config))
        if self.hf:
            config["text_cfg"]["hf_model_name"] = str(folder)
        name = f"medvlp-test-{abs(hash(str(folder)))}"
        (folder.parent / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder.parent / f"{name}.json")
        return open_clip.create_model(name, pretrained=None, pretrained_text=False)

    @torch.no_grad()
    def _spread(self) -> None:
        """Fresh towers give everything about the same vector; so that a mistake would show."""
        for parameter in self.model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 2 * parameter[0].numel() ** -0.5)
            elif parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for module in self.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)

    @torch.no_grad()
    def visuals(self, frames: torch.Tensor) -> torch.Tensor:
        """By open_clip, from bytes."""
        mean, std = (torch.tensor(PIXELS[key])[:, None, None] for key in ("mean", "std"))
        return self.model.encode_image((frames / 255 - mean) / std, normalize=True)

    @torch.no_grad()
    def texts(self, texts: list[str]) -> torch.Tensor:
        """By open_clip; its tokenizer pads to the longest that the model knows."""
        ids = torch.zeros(len(texts), 24, dtype=torch.long)
        if self.hf:
            for row, text in zip(ids, texts, strict=True):
                own = self.tokenizer.ids(text)
                row[: len(own)] = torch.tensor(own)
        else:
            ids = open_clip.SimpleTokenizer(context_length=24)(texts)
        return self.model.encode_text(ids, normalize=True)

    def rewrite(self, change) -> None:
        """Change the weights."""
        state = load_file(self.folder / "open_clip_model.safetensors")
        change(state)
        save_file(state, self.folder / "open_clip_model.safetensors")

    def redescribe(self, **changes: Any) -> None:
        """Change the description."""
        path = self.folder / "open_clip_config.json"
        tree = json.loads(path.read_text())
        for part in ("vision_cfg", "text_cfg"):
            tree["model_cfg"][part].update(changes.pop(part, {}))
        tree["model_cfg"].update(changes)
        path.write_text(json.dumps(tree))


def started(folder: Path, **settings: Any) -> ModelConfig:
    return resolve_start(ModelConfig.model_validate({"start": {"folder": str(folder)}, **settings}))


def build(config: ModelConfig) -> tuple[VLP, TextTokenizer]:
    tokenizer = hf_tokenizer(config.text)
    torch.manual_seed(0)
    return VLP(config, len(tokenizer)).eval(), tokenizer


def alone(frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Every frame a sample of its own."""
    n = len(frames)
    return frames, torch.arange(n + 1), torch.zeros(n), torch.zeros(n, dtype=torch.long)


def pixels(published: Published, n: int = 3) -> torch.Tensor:
    size = published.config["vision_cfg"]["image_size"]
    torch.manual_seed(5)
    coarse = torch.randint(0, 256, (n, 3, 4, 4), dtype=torch.uint8)
    return coarse.repeat_interleave(size // 4, 2).repeat_interleave(size // 4, 3)


@pytest.fixture
def publish(tmp_path: Path, tokenizer: TextTokenizer):
    return lambda name: Published(tmp_path / "published", MODELS[name], tokenizer)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_vectors_are_those_of_open_clips_own_model(publish, name: str):
    published = publish(name)
    config = started(published.folder)
    model, tokenizer = build(config)
    frames = pixels(published)
    ours = model.encode_visual(*alone(frames), tokens=True)
    assert torch.allclose(ours.vector, published.visuals(frames), atol=1e-5)
    texts = [*TEXTS, LONG]
    tokens = tokenizer(texts)
    ours_text = model.encode_text(tokens.ids, tokens.mask)
    assert torch.allclose(ours_text, published.texts(texts), atol=1e-5)
    assert config.embed_dim == published.config["embed_dim"]
    assert config.preprocess.standardise == "fixed"
    assert config.preprocess.mean == tuple(PIXELS["mean"])
    assert config.preprocess.deviation == tuple(PIXELS["std"])
    # Images and texts differ among themselves: a mistake would show.
    for vectors in (ours.vector, ours_text):
        assert (vectors @ vectors.T).fill_diagonal_(0).max() < 0.999


@pytest.mark.parametrize("name", ["clip", "biomedclip"])
def test_a_saved_model_needs_neither_folder_nor_hub(publish, name: str, tmp_path: Path, visuals):
    published = publish(name)
    model, tokenizer = build(started(published.folder))
    save_model(tmp_path / "run", model, tokenizer)
    expected = Encoder(model, tokenizer, digest="x")
    for path in published.folder.iterdir():
        path.unlink()
    published.folder.rmdir()
    encoder = load_encoder(tmp_path / "run")
    assert torch.equal(encoder.texts(TEXTS), expected.texts(TEXTS))
    assert torch.equal(encoder.visuals(visuals), expected.visuals(visuals))
    untrained = load_encoder(tmp_path / "run", untrained=1)
    assert not torch.allclose(untrained.texts(TEXTS), encoder.texts(TEXTS), atol=0.1)


@pytest.mark.parametrize("name", ["clip", "biomedclip"])
def test_the_resolved_config_survives_json_and_is_resolved_once(publish, name: str):
    config = started(publish(name).folder)
    again = ModelConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert resolve_start(again) is again


@torch.no_grad()
def test_the_vector_of_a_series_is_the_mean_over_its_frames(publish):
    published = publish("clip")
    model, _ = build(started(published.folder))
    frames = pixels(published, 5)
    series = model.encode_visual(frames, torch.tensor([0, 5]), torch.arange(5.0), torch.tensor([1]))
    size = (frames / 255 - torch.tensor(PIXELS["mean"])[:, None, None]) / torch.tensor(
        PIXELS["std"]
    )[:, None, None]
    mean = published.model.encode_image(size).mean(0)
    assert torch.allclose(series.vector[0], functional.normalize(mean, dim=0), atol=1e-5)
    assert torch.allclose(series.slice_weights, torch.full((5,), 0.2))


@torch.no_grad()
@pytest.mark.parametrize("name", ["clip", "biomedclip"])
def test_patches_begin_in_the_joint_space(publish, name: str):
    """The tower's own projection, applied to each patch."""
    published = publish(name)
    model, _ = build(started(published.folder))
    frames = pixels(published, 2)
    ours = model.encode_visual(*alone(frames), tokens=True)
    mean, std = (torch.tensor(PIXELS[key])[:, None, None] for key in ("mean", "std"))
    out = published.model.visual.forward_intermediates(
        (frames / 255 - mean) / std, indices=1, normalize_intermediates=True
    )
    patches = out["image_intermediates"][-1].flatten(2).transpose(1, 2)
    visual = published.model.visual
    projection = visual.proj if name == "clip" else visual.head.proj.weight.T
    assert torch.allclose(ours.patches, patches @ projection, atol=1e-5)


@torch.no_grad()
def test_a_learned_pooling_of_slices_leaves_images_as_they_are(publish):
    published = publish("clip")
    pooling = {"slices": "gated", "heads": 4, "hidden": 8, "frequencies": 4}
    model, _ = build(started(published.folder, pooling=pooling))
    frames = pixels(published)
    ours = model.encode_visual(*alone(frames)).vector
    assert torch.allclose(ours, published.visuals(frames), atol=1e-5)


def test_gradients_reach_both_towers(publish):
    for name in ("clip", "biomedclip"):
        published = publish(name)
        model, tokenizer = build(started(published.folder))
        model.train()
        frames, *rest = alone(pixels(published))
        visual = model.encode_visual(frames, *rest, tokens=True)
        tokens = tokenizer(TEXTS)
        text = model.encode_text(tokens.ids, tokens.mask)
        ((visual.vector @ text.T).square().sum() + (visual.patches @ text.T).sum()).backward()
        idle = {n for n, p in model.named_parameters() if p.grad is None}
        # Frames that count alike have no score, and a class token sees no use of the last patches.
        assert not any(n.startswith(("frames.", "text.", "text_projection.")) for n in idle), idle
        for path in published.folder.iterdir():
            path.unlink()
        published.folder.rmdir()


@pytest.mark.parametrize("name", ["clip", "biomedclip"])
@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop(next(k for k in state if k.startswith("visual."))),
        lambda state: state.pop(next(k for k in state if "ln_" in k or "LayerNorm" in k)),
        lambda state: state.update({"visual.surplus": torch.zeros(1)}),
        lambda state: state.update({"text.surplus": torch.zeros(1)}),
        lambda state: state.update({"surplus": torch.zeros(1)}),
        lambda state: state.update(
            {k: v[..., :1].contiguous() for k, v in state.items() if "proj" in k}
        ),
    ],
    ids=["visual missing", "text missing", "visual extra", "text extra", "extra", "other shape"],
)
def test_weights_that_do_not_fit_are_refused(publish, name: str, change):
    published = publish(name)
    published.rewrite(change)
    with pytest.raises(CheckpointError) as refused:
        build(started(published.folder))
    assert refused.value.code == "checkpoint-keys"


def test_a_counter_of_old_transformers_is_no_weight(publish):
    published = publish("biomedclip")
    counter = torch.arange(32)[None]
    published.rewrite(
        lambda state: state.update({"text.transformer.embeddings.position_ids": counter})
    )
    model = build(started(published.folder))
    assert model is not None  # not refused


@pytest.mark.parametrize(
    "changes",
    [
        {"multimodal_cfg": {"width": 8}},
        {"text_cfg": {"embed_cls": True}},
        {"text_cfg": {"no_causal_mask": True}},
        {"text_cfg": {"pool_type": "last"}},
        {"text_cfg": {"tokenizer_kwargs": {"clean": "canonicalize"}}},
        {"vision_cfg": {"attentional_pool": True}},
        {"vision_cfg": {"image_size": [32, 64]}},
    ],
)
def test_models_that_would_only_be_approximated_are_refused(publish, changes):
    published = publish("clip")
    published.redescribe(**changes)
    with pytest.raises(CheckpointError) as refused:
        started(published.folder)
    assert refused.value.code == "start-unsupported"


@pytest.mark.parametrize(
    "settings",
    [
        {"embed_dim": 8},
        {"preprocess": {"size": 64}},
        {"preprocess": {"standardise": "frame"}},
        {"frames": {"library": "timm", "name": "test_vit"}},
        {"text": {"max_tokens": 512}},
        {"text": {"pooling": "cls"}, "embed_dim": 25},
    ],
)
def test_a_config_that_says_something_else_is_refused(publish, settings):
    with pytest.raises(ConfigError) as refused:
        started(publish("clip").folder, **settings)
    assert refused.value.code == "start-conflict"


def test_what_the_checkpoint_does_not_decide_is_kept(publish):
    config = started(
        publish("clip").folder,
        embed_dim=24, text={"max_tokens": 12}, words=True,
        preprocess={"percentiles": [1, 99]}, pooling={"statistics": ["mean", "top"]},
    )  # fmt: skip
    assert config.text.max_tokens == 12
    assert config.words
    assert config.preprocess.percentiles == (1.0, 99.0)
    assert config.pooling.statistics == ("mean", "top")
    model, tokenizer = build(config)
    assert len(tokenizer.ids(LONG)) == 12
    assert model.encode_words(*tokenizer(TEXTS)).shape[2] == 24


def test_the_encoders_config_may_lie_elsewhere(publish, tmp_path: Path):
    published = publish("biomedclip")
    (tmp_path / "bert").mkdir()
    (published.folder / "config.json").rename(tmp_path / "bert" / "config.json")
    with pytest.raises(CheckpointError, match=r"owner/bert.*model\.text\.hf") as refused:
        started(published.folder)
    assert refused.value.code == "start-text-config"
    config = started(published.folder, text={"hf": {"folder": str(tmp_path / "bert")}})
    model, tokenizer = build(config)
    tokens = tokenizer(TEXTS)
    with torch.no_grad():
        ours = model.encode_text(tokens.ids, tokens.mask)
    assert torch.allclose(ours, published.texts(TEXTS), atol=1e-5)


def test_an_incomplete_folder_is_refused_with_a_next_step(publish, tmp_path: Path):
    published = publish("clip")
    (published.folder / "open_clip_model.safetensors").rename(
        published.folder / "open_clip_pytorch_model.bin"
    )
    with pytest.raises(CheckpointError, match="convert it to safetensors") as refused:
        build(started(published.folder))
    assert refused.value.code == "weights-pickle"
    for text in (None, "[1]", "{", "{}"):
        path = published.folder / "open_clip_config.json"
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(CheckpointError) as refused:
            started(published.folder)
        assert refused.value.code == ("start-missing" if text is None else "start-broken")


def test_a_start_that_is_not_written_out_is_refused(publish):
    config = ModelConfig.model_validate({"start": {"folder": str(publish("clip").folder)}})
    with pytest.raises(ConfigError) as refused:
        VLP(config, 100)
    assert refused.value.code == "start-unresolved"


def test_a_config_without_a_start_stays_as_it_is(tiny: ModelConfig):
    assert resolve_start(tiny) is tiny


def test_a_visual_of_any_size_goes_in(publish, tmp_path: Path, visuals: list[Visual]):
    model, tokenizer = build(started(publish("clip").folder))
    vectors = Encoder(model, tokenizer, digest="x").visuals(visuals)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(len(visuals)), atol=1e-5)


def test_a_start_on_the_hub_is_fetched_at_its_commit(publish, monkeypatch, tmp_path: Path):
    published = publish("biomedclip")
    (tmp_path / "bert").mkdir()
    (published.folder / "config.json").rename(tmp_path / "bert" / "config.json")
    asked = []

    def fetch(repository, *, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        return str(published.folder if repository == "owner/clip" else tmp_path / "bert")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    config = resolve_start(
        ModelConfig.model_validate(
            {
                "start": {"hub": "owner/clip", "revision": "a" * 40},
                "text": {"hf": {"hub": "owner/bert", "revision": "b" * 40}},
            }
        )
    )
    build(config)
    assert {(repository, revision) for repository, revision, _ in asked} == {
        ("owner/clip", "a" * 40),
        ("owner/bert", "b" * 40),
    }
    # Of the encoder only its config is wanted: its weights are in the checkpoint.
    assert all("safetensors" not in str(files) for name, _, files in asked if name == "owner/bert")


def test_the_configs_in_the_documentation_are_configs():
    from pretrain.config import PretrainConfig

    text = (Path(__file__).resolve().parents[3] / "docs" / "weights.md").read_text("utf-8")
    blocks = [part.split("```")[0] for part in text.split("```yaml\n")[1:]]
    whole = [yaml.safe_load(block) for block in blocks if "model:" in block]
    assert len(whole) == 2
    for tree in whole:
        PretrainConfig.model_validate(tree)
    for line in blocks[0].splitlines():
        WeightsRef.model_validate(yaml.safe_load(line)["weights"])
