"""Global contrast of samples and texts with several positives and ignored pairs."""

from __future__ import annotations

from jaxtyping import Float, Int8
from torch import Tensor

from medvlp.losses.objective import LogitScale, Objective, Scene


def multi_positive_nce(
    logits: Float[Tensor, "r c"], target: Int8[Tensor, "r c"]
) -> Float[Tensor, ""]:
    """Cross-entropy of each row against its positives, averaged over the rows that have one.

        L = mean_i  - 1/|P_i| sum_{j in P_i} log( exp(s_ij) / sum_{k: target_ik >= 0} exp(s_ik) )

    The "outside" form of supervised contrast (Khosla et al. 2020, eq. 2): each positive has its
    own fraction. With one positive a row and nothing ignored it is InfoNCE (van den Oord 2018).

    Args:
        logits: s, cosines times the scale.
        target: 1 positive, 0 negative, -1 left out of the denominator.

    Returns:
        The mean; 0 (with a zero gradient) if no row has a positive.
    """
    seen = logits.masked_fill(target < 0, float("-inf"))
    positive = target == 1
    count = positive.sum(1)
    rows = count > 0
    if not bool(rows.any()):
        return logits.sum() * 0
    log_share = seen[rows].log_softmax(1).masked_fill(~positive[rows], 0)
    return -(log_share.sum(1) / count[rows]).mean()


def symmetric_nce(logits: Float[Tensor, "b m"], target: Int8[Tensor, "b m"]) -> Float[Tensor, ""]:
    """Half of visual-to-text and half of text-to-visual."""
    return (multi_positive_nce(logits, target) + multi_positive_nce(logits.T, target.T)) / 2


class InfoNCE(Objective):
    """Symmetric multi-positive InfoNCE of sample and text vectors.

    Identical texts and texts whose claims hold for a visual are positives; texts of which it is
    not known are ignored: a shared concept is not a negative.

    Args:
        temperature: Start value; learned.
        min_temperature: Its lower bound.
    """

    def __init__(self, *, temperature: float = 0.1, min_temperature: float = 0.02) -> None:
        super().__init__()
        self.scale = LogitScale(temperature, min_temperature)

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch."""
        logits = self.scale() * scene.embeddings.visual @ scene.embeddings.text.T
        return symmetric_nce(logits, scene.target)
