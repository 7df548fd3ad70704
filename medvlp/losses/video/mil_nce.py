"""SurgVLP: one recogniser's narration by InfoNCE, the others' as a bag of candidates.

Yuan et al. 2025, "Learning multi-modal representations by watching hundreds of surgical video
lectures" (arXiv 2307.15220), as its code combines them; the bag after Miech et al. 2020,
"End-to-end learning of visual representations from uncurated instructional videos", eq. 1.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from medvlp.batch import Batch, TextRole
from medvlp.losses.contrast.infonce import multi_positive_nce, symmetric_nce
from medvlp.losses.objective import Objective, Scene, text_owner
from medvlp.losses.video.levels import has_role, logit_scale


def nt_xent(
    logits: Float[Tensor, "r c"], target: Int8[Tensor, "r c"], share: float = 0.75
) -> Float[Tensor, ""]:
    """Visual-to-text and text-to-visual in unequal shares (ConVIRT, Zhang et al. 2022).

    Args:
        logits: Cosines times the scale.
        target: 1 positive, 0 negative, -1 left out of the denominator.
        share: Of visual-to-text; 0.5 is symmetric InfoNCE.
    """
    there = multi_positive_nce(logits, target)
    back = multi_positive_nce(logits.T, target.T)
    return share * there + (1 - share) * back


def mil_nce(
    logits: Float[Tensor, "b m"],
    target: Int8[Tensor, "b m"],
    owner: Int[Tensor, " m"],
    *,
    count_twice: bool = False,
) -> Float[Tensor, ""]:
    """Multiple-instance NCE: some text of the bag fits, it is not known which.

        L = mean_i  log sum_{(u, j) in A_i, target_uj >= 0} exp(s_uj)
                  - log sum_{(u, j) in A_i, target_uj = 1} exp(s_uj)

    A_i are the pairs that sample i is part of: its visual with every text, and every visual with
    its texts. The sum over the positives stands inside the logarithm, so one fitting text is
    enough. With other samples' texts as the only negatives and `count_twice` this is the form of
    SurgVLP and of the code of MIL-NCE, where the pairs of i with its own texts stand in the
    denominator once as a row and once as a column: a loss that cannot fall below log 2.

    Args:
        logits: s, of every visual and every text of a bag.
        target: 1 positive, 0 negative, -1 takes no part.
        owner: Whose bag each text is in.
        count_twice: As published.

    Returns:
        The mean over the samples with a positive pair; 0 (with a zero gradient) without one.
    """
    mine = owner == torch.arange(len(logits), device=owner.device)[:, None]
    positive = target == 1
    anchor = positive.any(1) | (mine & positive.any(0)).any(1)
    if not bool(anchor.any()):
        return logits.sum() * 0
    total = _of_each_sample(logits, target >= 0, mine, count_twice)
    fitting = _of_each_sample(logits, positive, mine, False)
    return (total - fitting)[anchor].mean()


def _of_each_sample(
    logits: Float[Tensor, "b m"],
    chosen: Bool[Tensor, "b m"],
    mine: Bool[Tensor, "b m"],
    twice: bool,
) -> Float[Tensor, " b"]:
    """Log of the sum of exponentials of the chosen pairs that each sample is part of."""
    # Finite, so that a sum over nothing has a gradient of 0 and not nan.
    nothing = torch.finfo(logits.dtype).min / 4
    row = logits.masked_fill(~chosen, nothing)
    others = chosen if twice else chosen & ~mine
    column = logits.masked_fill(~others, nothing).logsumexp(0)
    column = column.expand_as(row).masked_fill(~mine, nothing)
    return torch.cat([row, column], 1).logsumexp(1)


def in_bag(batch: Batch) -> Bool[Tensor, " m"]:
    """Texts that form the bags: what other recognisers heard, else the sample's lead text."""
    heard, lead = has_role(batch, TextRole.HEARD), has_role(batch, TextRole.LEAD)
    owner = text_owner(batch.text_offsets)
    heard_by = torch.bincount(owner[heard], minlength=len(batch))
    return heard | (lead & (heard_by[owner] == 0))


class MilNCE(Objective):
    """Weighted sum of InfoNCE and NT-Xent on lead texts and MIL-NCE on the bags.

    Where the published form takes dot products of vectors of any length without a temperature,
    ours takes unit vectors and one learned temperature for all three; an own pair counts once.
    Texts that hold for several visuals are positives of each, unknown ones take no part, here and
    in the published form.

    Args:
        temperature: Start value; learned, fixed in the published form.
        min_temperature: Its lower bound.
        share: Of visual-to-text in NT-Xent.
        clip_weight: Of InfoNCE.
        nt_xent_weight: Of NT-Xent.
        mil_weight: Of MIL-NCE.
        normalised: False: MIL-NCE takes the vectors before they are brought to unit length
            (`Embeddings.raw_visual`, `raw_text`), without a temperature.
        published: The paper's form: not normalised, own pairs twice in MIL-NCE's denominator.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        min_temperature: float = 0.02,
        share: float = 0.75,
        clip_weight: float = 1 / 3,
        nt_xent_weight: float = 1 / 3,
        mil_weight: float = 1 / 3,
        normalised: bool = True,
        published: bool = False,
    ) -> None:
        super().__init__()
        self.scale = logit_scale(temperature, min_temperature, learned=not published)
        self.share = share
        self.clip_weight = clip_weight
        self.nt_xent_weight = nt_xent_weight
        self.mil_weight = mil_weight
        self.normalised = normalised and not published
        self.published = published

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if no sample has a lead text or a bag."""
        batch, embeddings = scene.batch, scene.embeddings
        lead, bag = has_role(batch, TextRole.LEAD), in_bag(batch)
        cosines = embeddings.visual @ embeddings.text.T
        logits = self.scale() * cosines
        told, target = logits[:, lead], scene.target[:, lead]
        heard = logits if self.normalised else self._raw_products(scene)
        owner = text_owner(batch.text_offsets)[bag]
        return (
            self.clip_weight * symmetric_nce(told, target)
            + self.nt_xent_weight * nt_xent(told, target, self.share)
            + self.mil_weight
            * mil_nce(heard[:, bag], scene.target[:, bag], owner, count_twice=self.published)
        )

    def _raw_products(self, scene: Scene) -> Float[Tensor, "b m"]:
        visual, text = scene.embeddings.raw_visual, scene.embeddings.raw_text
        if visual is None or text is None:
            raise ValueError("MIL-NCE that is not normalised needs raw_visual and raw_text")
        return visual @ text.T
