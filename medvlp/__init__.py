"""medvlp: vision-language pretraining for radiology and surgery."""

__version__ = "0.1.0"
