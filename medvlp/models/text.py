"""The text tower: a small BERT from scratch, any Hugging Face encoder, or open_clip's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, PretrainedConfig

from medvlp.errors import CheckpointError, ConfigError
from medvlp.models.clip_text import ClipText, clip_tokenizer
from medvlp.models.config import TextTowerConfig
from medvlp.models.tokens import TextTokenizer, read_tokenizer
from medvlp.models.weights import refuse_keys, resolve, weights_file

_WORD_DEVIATION = 0.5
_HF_FILES = ("model.safetensors", "model.safetensors.index.json")
_HF_HEADS = ("cls.", "lm_head.", "classifier.", "score.", "qa_outputs.", "pooler.", "head.",
             "decoder.", "vocab_", "discriminator_predictions.")  # fmt: skip
"""Heads of Hugging Face encoders: of word prediction, classification and so on; we have none."""


def build_text(
    config: TextTowerConfig, vocabulary: int, *, architecture: dict[str, Any] | None = None
) -> TextTower | ClipText:
    """The text tower of a config; arguments as those of `TextTower`."""
    if config.library == "open_clip":
        return ClipText(config.architecture or architecture or {}, vocabulary)
    return TextTower(config, vocabulary, architecture=architecture)


class TextTower(nn.Module):
    """Token ids to one vector a text and one a token.

    Args:
        config: Which encoder.
        vocabulary: Entries of the tokenizer (the small BERT's embedding table).
        architecture: A Hugging Face config as a dict, to rebuild a saved encoder without its
            original folder; the weights follow from the checkpoint.
    """

    def __init__(
        self,
        config: TextTowerConfig,
        vocabulary: int,
        *,
        architecture: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.pooling = config.pooling
        given = architecture or config.architecture
        if given is not None:
            encoder = _fresh(_from_dict(given))
        elif config.hf is not None:
            encoder = _pretrained(resolve(config.hf), pooler=config.pooling == "pooler")
        else:
            encoder = _fresh(_small_bert(config, vocabulary))
            _spread_words(encoder)
        if vocabulary > encoder.config.vocab_size:
            raise CheckpointError(
                "the tokenizer has more entries than the text encoder knows",
                code="tokenizer-mismatch",
                got=vocabulary,
                limit=encoder.config.vocab_size,
            )
        if config.pooling != "pooler" and getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # never used: it would have no gradient
        self.encoder: Any = encoder
        self.dim = int(encoder.config.hidden_size)

    @property
    def architecture(self) -> dict[str, Any]:
        """The Hugging Face config, complete enough to rebuild the encoder."""
        tree: dict[str, Any] = self.encoder.config.to_dict()
        return {key: value for key, value in tree.items() if key != "_name_or_path"}

    def forward(
        self, tokens: Int[Tensor, "m l"], mask: Bool[Tensor, "m l"]
    ) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m l d"]]:
        """One vector a text, and one a token; padding does not change them."""
        output = self.encoder(input_ids=tokens, attention_mask=mask.long())
        hidden: Tensor = output[0]
        if self.pooling == "pooler":
            return output[1], hidden
        if self.pooling == "cls":
            return hidden[:, 0], hidden
        weight = mask[..., None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1), hidden


def hf_tokenizer(config: TextTowerConfig) -> TextTokenizer:
    """The tokenizer that belongs to a pretrained encoder.

    Raises:
        CheckpointError: The folder has no `tokenizer.json`.
    """
    assert config.hf is not None
    if config.library == "open_clip" and not (config.architecture or {}).get("hf_tokenizer_name"):
        return clip_tokenizer(config.max_tokens)
    return read_tokenizer(resolve(config.hf) / "tokenizer.json", config.max_tokens)


def _small_bert(config: TextTowerConfig, vocabulary: int) -> BertConfig:
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=2 * config.width,
        max_position_embeddings=config.max_tokens,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        type_vocab_size=1,
    )


def _pretrained(folder: Path, *, pooler: bool) -> Any:
    """A Hugging Face encoder with its weights: all of them, and of the rest only known heads."""
    weights_file(folder, _HF_FILES)
    try:
        encoder, report = AutoModel.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            "the text encoder cannot be loaded",
            code="weights-broken",
            got=type(error).__name__,
            next_step="the folder must hold config.json and model.safetensors that belong together",
        ) from error
    missing = [key for key in report["missing_keys"] if pooler or not key.startswith("pooler.")]
    extra = [
        key
        for key in report["unexpected_keys"]
        if not key.startswith(_HF_HEADS) and not key.endswith(".position_ids")
    ]
    refuse_keys("missing", sorted(missing))
    refuse_keys("unexpected", sorted(extra))
    return encoder.float()


def _fresh(config: PretrainedConfig) -> Any:
    # Eager attention: on CPU the fused kernel's backward costs more than it saves on short texts.
    model: Any = AutoModel.from_config(  # type: ignore[no-untyped-call]
        config, attn_implementation="eager"
    )
    return model.float()


def _spread_words(encoder: Any) -> None:
    """Let words differ from the start.

    BERT's own start (deviation 0.02, as for positions and segments) gives any two short texts a
    cosine above 0.95; from there a contrast on a few hundred reports takes most of its steps to
    find out that texts differ at all.
    """
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight.normal_(0.0, _WORD_DEVIATION)


def _from_dict(tree: dict[str, Any]) -> PretrainedConfig:
    rest = {key: value for key, value in tree.items() if key != "model_type"}
    try:
        config: PretrainedConfig = AutoConfig.for_model(tree["model_type"], **rest)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            "the text encoder is of no kind that transformers knows",
            code="tower-unknown",
            got=tree.get("model_type"),
        ) from error
    return config
