"""The text side of open_clip's own models: its transformer and its byte-pair vocabulary."""

from __future__ import annotations

from functools import cache
from typing import Any

import open_clip
import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from medvlp.errors import CheckpointError, ConfigError
from medvlp.models.tokens import TextTokenizer

START, END = "<start_of_text>", "<end_of_text>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""One word of a text: letters, one digit, or other signs (Radford et al. 2021, their code)."""
_PLAIN = {
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"',
    "\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl",
    "&lt;": "<", "&gt;": ">", "&quot;": '"', "&amp;": "&",
}  # fmt: skip
"""What texts copied from pages and PDF files have in place of plain letters."""


class ClipText(nn.Module):
    """open_clip's text transformer, up to the end token's vector; its projection is the model's.

    Attention is causal: what follows a text does not change it, so texts need not be padded to
    the longest that the model knows.

    Args:
        architecture: open_clip's `text_cfg`, and `quick_gelu`.
        vocabulary: Entries of the tokenizer.
    """

    def __init__(self, architecture: dict[str, Any], vocabulary: int) -> None:
        super().__init__()
        self.architecture = architecture
        quick = architecture.get("quick_gelu", False)
        text = {key: value for key, value in architecture.items() if key != "quick_gelu"}
        visual = {"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 8}
        try:
            # A visual tower of no size comes with it and is dropped: see `frames`.
            pair = open_clip.CustomTextCLIP(
                8, visual, {**text, "proj_type": "none"}, quick_gelu=quick
            )
        except (TypeError, AssertionError, RuntimeError) as error:
            raise ConfigError(
                "the text tower cannot be built", code="tower-unknown", got=type(error).__name__
            ) from error
        self.encoder: Any = pair.text
        self.dim = int(self.encoder.width)
        if vocabulary > self.encoder.vocab_size:
            raise CheckpointError(
                "the tokenizer has more entries than the text encoder knows",
                code="tokenizer-mismatch",
                got=vocabulary,
                limit=self.encoder.vocab_size,
            )

    def forward(
        self, tokens: Int[Tensor, "m l"], mask: Bool[Tensor, "m l"]
    ) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m l d"]]:
        """One vector a text, and one a token; padding does not change them."""
        encoder, length = self.encoder, tokens.shape[1]
        words = encoder.token_embedding(tokens) + encoder.positional_embedding[:length]
        causal = encoder.attn_mask[:length, :length].to(words.dtype)
        hidden: Tensor = encoder.ln_final(encoder.transformer(words, attn_mask=causal))
        end = mask.sum(1) - 1
        return hidden[torch.arange(len(end), device=end.device), end], hidden


def clip_tokenizer(max_tokens: int) -> TextTokenizer:
    """CLIP's byte-pair vocabulary as open_clip brings it, in the form of a `tokenizer.json`.

    Gives the ids of `open_clip.SimpleTokenizer`, but for texts in a broken encoding, which that one
    repairs.

    Args:
        max_tokens: Longest text, special tokens included.
    """
    entries, merges = _byte_pairs()
    tokenizer = Tokenizer(
        models.BPE(vocab=entries, merges=merges, end_of_word_suffix="</w>", fuse_unk=False)
    )
    plain = [normalizers.Replace(odd, letters) for odd, letters in _PLAIN.items()]
    tokenizer.normalizer = normalizers.Sequence(
        [
            *plain,
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (START, END)],
    )
    return TextTokenizer(tokenizer, max_tokens)


@cache
def _byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Entries by id, and pairs in the order in which they are joined."""
    source = open_clip.SimpleTokenizer()
    return source.encoder, sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
