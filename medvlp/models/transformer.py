"""The steps of a transformer layer: attention that never looks at padding, and feed-forward."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


class AttentionStep(nn.Module):
    """x + A(n(x), n(context)): pre-norm attention added to its input.

    Args:
        width: Of tokens; a multiple of `heads`.
        heads: Attention heads.
        dropout: Of the attention's weights and of what is added.
        cross: The context is another sequence, with a norm of its own.
    """

    def __init__(
        self, width: int, heads: int, dropout: float = 0.0, *, cross: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.context_norm = nn.LayerNorm(width) if cross else None
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "k i d"],
        mask: Bool[Tensor, "k j"],
        context: Float[Tensor, "k j d"] | None = None,
    ) -> Float[Tensor, "k i d"]:
        """One step.

        Args:
            x: Tokens that ask.
            mask: Which tokens of the context (of x, without one) may be looked at. A row that
                has none looks at all of them: finite, and of no use.
            context: Tokens that answer.
        """
        asking = self.norm(x)
        answering = asking if self.context_norm is None else self.context_norm(context)
        key, value = self.key_value(answering).chunk(2, dim=-1)
        seen = mask | ~mask.any(1, keepdim=True)
        read = functional.scaled_dot_product_attention(
            self._split(self.query(asking)),
            self._split(key),
            self._split(value),
            attn_mask=seen[:, None, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        added: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return x + functional.dropout(added, self.dropout, self.training)

    def _split(self, x: Float[Tensor, "k i d"]) -> Float[Tensor, "k heads i c"]:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class FeedForwardStep(nn.Module):
    """x + W2 gelu(W1 n(x)), hidden width four times the width."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Float[Tensor, "k i d"]) -> Float[Tensor, "k i d"]:
        """One step."""
        added: Tensor = self.inner(x)
        return x + added


class SelfLayer(nn.Module):
    """Self-attention and feed-forward: an ordinary pre-norm transformer layer without positions."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.within = AttentionStep(width, heads, dropout)
        self.ffn = FeedForwardStep(width, dropout)

    def forward(
        self, x: Float[Tensor, "k i d"], mask: Bool[Tensor, "k i"]
    ) -> Float[Tensor, "k i d"]:
        """One layer; tokens outside the mask are not looked at."""
        out: Tensor = self.ffn(self.within(x, mask))
        return out
