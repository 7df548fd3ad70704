from __future__ import annotations

import numpy as np
import pytest
import torch

from medvlp.models.config import ModelConfig
from medvlp.models.tokens import TextTokenizer, train_wordpiece
from medvlp.models.vlp import VLP
from medvlp.types import Visual

TINY = {
    "embed_dim": 8,
    "preprocess": {"size": 32},
    "frames": {"levels": 2, "kwargs": {"width": 4, "stages": 3}},
    "pooling": {"heads": 2, "hidden": 6, "frequencies": 4},
    "text": {"layers": 1, "width": 16, "heads": 2, "max_tokens": 24},
}
TEXTS = ["There is a nodule.", "No nodule.", "Small left pleural effusion."]


@pytest.fixture
def tiny() -> ModelConfig:
    return ModelConfig.model_validate(TINY)


@pytest.fixture(scope="session")
def tokenizer() -> TextTokenizer:
    return train_wordpiece(TEXTS, vocabulary=200, max_tokens=24)


@pytest.fixture
def model(tiny: ModelConfig, tokenizer: TextTokenizer) -> VLP:
    torch.manual_seed(0)
    model = VLP(tiny, len(tokenizer))
    torch.nn.init.normal_(model.pooling.position.weight, std=0.3)
    return model.eval()


@pytest.fixture(scope="session")
def visuals() -> list[Visual]:
    """Images, volumes and clips of different sizes and lengths."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (1, 30, 40)).astype(np.uint8)
    volume = rng.integers(-1000, 800, (9, 24, 24)).astype(np.int16)
    clip = rng.integers(0, 255, (5, 20, 36, 3)).astype(np.uint8)
    wide = rng.integers(0, 4000, (1, 60, 20)).astype(np.uint16)
    return [
        Visual(image, np.zeros(1), "image", "raw"),
        Visual(volume, np.array([0, 2, 4, 9, 10, 11, 12, 20, 21.0]), "volume", "HU"),
        Visual(clip, np.arange(5) / 2.0, "clip", "rgb"),
        Visual(wide, np.zeros(1), "image", "raw", (2000.0, 4000.0)),
        Visual(volume[:3], np.array([0, 5, 10.0]), "volume", "HU"),
    ]
