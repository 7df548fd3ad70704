"""Texts to token ids: a WordPiece vocabulary trained on the dataset, or a given tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from medvlp.errors import CheckpointError
from medvlp.models.wordpiece import learn_pieces

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
POLARITY_WORDS = (
    "no", "not", "without", "absent", "absence", "negative", "denies", "none", "nor", "neither",
    "free", "clear", "normal", "resolved", "ruled", "out", "unlikely", "possible", "possibly",
    "probable", "may", "suspected", "cannot", "exclude", "excluded", "evidence", "of", "there",
    "is", "are", "present", "shows", "showing", "findings", "left", "right", "bilateral",
)  # fmt: skip
"""Words that decide what a sentence states; each is one token whatever the dataset says."""


_LONGEST_WORD = 64


class Tokens(NamedTuple):
    """Padded token ids of m texts, as long as the longest."""

    ids: Int[Tensor, "m l"]
    mask: Bool[Tensor, "m l"]


class TextTokenizer:
    """Lowercase word pieces with [CLS] and [SEP], cut at `max_tokens`.

    Args:
        tokenizer: A `tokenizers.Tokenizer`.
        max_tokens: Longest text, special tokens included.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self.max_tokens = max_tokens
        self.pad_id = next(
            (i for token in ("[PAD]", "<pad>") if (i := tokenizer.token_to_id(token)) is not None),
            0,
        )

    @property
    def mask_id(self) -> int | None:
        """Of the token that hides another, if there is one."""
        found = (self._tokenizer.token_to_id(token) for token in ("[MASK]", "<mask>"))
        return next((int(i) for i in found if i is not None), None)

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Tokens that stand for no word."""
        added = self._tokenizer.get_added_tokens_decoder()
        return tuple(sorted(i for i, token in added.items() if token.special))

    @property
    def continuing_ids(self) -> tuple[int, ...]:
        """Word pieces that continue a word."""
        pieces = self._tokenizer.get_vocab()
        return tuple(sorted(i for piece, i in pieces.items() if piece.startswith("##")))

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Token ids of texts, padded to the longest."""
        return self.pad([self.ids(text) for text in texts])

    def ids(self, text: str) -> list[int]:
        """Token ids of one text."""
        return list(self._tokenizer.encode(text).ids)

    def pieces(self, text: str) -> list[str]:
        """The word pieces of one text, special tokens included."""
        return list(self._tokenizer.encode(text).tokens)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The characters [first, after the last) of each of `ids(text)`.

        Counted in the text as given, whatever its case and accents; special tokens have (0, 0).
        """
        return [(first, last) for first, last in self._tokenizer.encode(text).offsets]

    def pad(self, ids: Sequence[Sequence[int]]) -> Tokens:
        """Ids of several texts as one tensor."""
        longest = max((len(row) for row in ids), default=1)
        out = torch.full((len(ids), longest), self.pad_id, dtype=torch.long)
        mask = torch.zeros(len(ids), longest, dtype=torch.bool)
        for i, row in enumerate(ids):
            out[i, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[i, : len(row)] = True
        return Tokens(out, mask)

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Which texts do not fit into `max_tokens`."""
        self._tokenizer.no_truncation()
        lengths = [len(self._tokenizer.encode(text).ids) for text in texts]
        self._tokenizer.enable_truncation(self.max_tokens)
        return [length > self.max_tokens for length in lengths]

    def to_json(self) -> str:
        """The whole tokenizer, as `tokenizer.json` of the Hugging Face ecosystem."""
        return str(self._tokenizer.to_str(pretty=True))


def train_wordpiece(texts: Iterable[str], *, vocabulary: int, max_tokens: int) -> TextTokenizer:
    """A WordPiece vocabulary (Wu et al. 2016) of the given texts, lowercase, without accents.

    Deterministic for the same set of texts in any order. Every printable ASCII character is in
    it, so no plain word is unknown; so are the words of polarity and side.

    Args:
        texts: Train texts only: the vocabulary must not see the test split.
        vocabulary: Most entries, special tokens included.
        max_tokens: Longest text, tokens.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in sorted(set(texts)):
        found = splitter.pre_tokenize_str(normalizer.normalize_str(text))
        words.update(word for word, _ in found if len(word) <= _LONGEST_WORD)
    plain = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    fixed = [*SPECIAL, *plain, *(f"##{letter}" for letter in plain), *POLARITY_WORDS]
    pieces = learn_pieces(words, fixed, vocabulary)
    model = models.WordPiece(
        {piece: number for number, piece in enumerate(pieces)},
        unk_token="[UNK]",
        max_input_chars_per_word=_LONGEST_WORD,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens(list(SPECIAL))
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    return TextTokenizer(tokenizer, max_tokens)


def read_tokenizer(path: Path, max_tokens: int) -> TextTokenizer:
    """A tokenizer from a `tokenizer.json`.

    Raises:
        CheckpointError: It is missing or not a tokenizer file.
    """
    if not path.is_file():
        raise CheckpointError("tokenizer.json is missing", code="tokenizer-missing")
    try:
        return TextTokenizer(Tokenizer.from_file(str(path)), max_tokens)
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError("tokenizer.json cannot be read", code="tokenizer-broken") from error
