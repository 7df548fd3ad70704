"""The text tower: a small BERT from scratch, or any Hugging Face encoder."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, PretrainedConfig

from medvlp.errors import CheckpointError
from medvlp.models.config import TextTowerConfig
from medvlp.models.tokens import TextTokenizer, read_tokenizer
from medvlp.models.weights import resolve

_WORD_DEVIATION = 0.5


class TextTower(nn.Module):
    """Token ids to one vector a text.

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
        if architecture is not None:
            encoder = _fresh(_from_dict(architecture))
        elif config.hf is not None:
            folder = resolve(config.hf)
            try:
                encoder = AutoModel.from_pretrained(
                    folder, use_safetensors=True, local_files_only=True, trust_remote_code=False
                )
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    "the text encoder cannot be loaded",
                    code="weights-broken",
                    got=type(error).__name__,
                    next_step="the folder must hold config.json and model.safetensors",
                ) from error
        else:
            encoder = _fresh(_small_bert(config, vocabulary))
            _spread_words(encoder)
        if getattr(encoder, "pooler", None) is not None:
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
    ) -> Float[Tensor, "m d"]:
        """One vector a text; padding does not change it."""
        hidden: Tensor = self.encoder(input_ids=tokens, attention_mask=mask.long())[0]
        if self.pooling == "cls":
            return hidden[:, 0]
        weight = mask[..., None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)


def hf_tokenizer(config: TextTowerConfig) -> TextTokenizer:
    """The tokenizer that belongs to a Hugging Face encoder.

    Raises:
        CheckpointError: The folder has no `tokenizer.json`.
    """
    assert config.hf is not None
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
    config: PretrainedConfig = AutoConfig.for_model(tree["model_type"], **rest)
    return config
