"""Between reading and storing: may these pixels go into the dataset?

Pixels at risk of burned-in text need one of three things: a config that accepts them, a person
who has looked, or text recognition that has seen every frame and found nothing. Whatever fails
on the way clears nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from data_connectors.deid import review
from data_connectors.deid.policy import BurnedIn, PixelPolicy
from data_connectors.items import PixelFacts, Refused, VisualItem

HEADERLESS = ("images", "lectures")
"""Kinds of source whose pixels no header describes."""
ACCEPTED = "text-risk-accepted"
REVIEWED = "text-reviewed"
CLEARED = "text-cleared-by-ocr"
MASKED = "text-masked"
FACE = "face"
DEFACED = "face-removed"
FLAGS = (ACCEPTED, REVIEWED, CLEARED, MASKED, FACE, DEFACED)
"""What a sample's `flags` may say about persons in its pixels."""
_REVIEW = "look at its picture in <out>.review, decide in review.tsv, and run with deid.reviewed"


@dataclass(frozen=True, slots=True)
class Gate:
    """The policy of an ingest, and where pictures for a person's eyes go."""

    policy: PixelPolicy
    """`reviewed` is absolute."""
    held: Path
    key: bytes
    review: str = ""
    """SHA-256 of the file that `reviewed` names."""

    def judge(self, item: VisualItem, kind: str, own: BurnedIn | None) -> VisualItem | Refused:
        """The item with its flags, perhaps changed, or why its pixels may not be stored.

        Args:
            item: What a connector has read, payload included.
            kind: Kind of its source.
            own: The source's own `burned_in`.
        """
        if kind in HEADERLESS:
            item = replace(item, pixels=replace(item.pixels, text=("no-header",)))
            judged = item if own is None else self._text(item, own)
        else:
            judged = self._text(item, own or self.policy.burned_in)
        return judged if isinstance(judged, Refused) else self._face(judged)

    def _text(self, item: VisualItem, way: BurnedIn) -> VisualItem | Refused:
        if not item.pixels.text and way != "ocr-all":
            return item
        if way == "accept":
            return _flagged(item, ACCEPTED)
        decisions = review.read_decisions(self.policy.reviewed) if self.policy.reviewed else {}
        if (decision := decisions.get(item.digest)) is not None:
            if decision.verdict == "accept":
                return _flagged(item, REVIEWED)
            return Refused(
                "burned-in-rejected", "a person has looked at these pixels and rejected them",
                "nothing", item.inputs,
            )  # fmt: skip
        if way == "quarantine":
            return self._held(item, "burned-in-risk", _because(item.pixels))
        return self._recognised(item)

    def _recognised(self, item: VisualItem) -> VisualItem | Refused:
        from data_connectors.deid import ocr

        try:
            found = ocr.find_text(item, timeout_s=self.policy.ocr_timeout_s)
        except ocr.OcrError as error:
            why = f"text recognition has not cleared them: {error}"
            return self._held(item, "burned-in-risk", f"{_because(item.pixels)}; {why}")
        if not found:
            return _flagged(item, CLEARED)
        if self.policy.mask_text:
            return _flagged(ocr.masked(item, found), MASKED)
        frames = len({box.frame for box in found})
        return self._held(
            item, "burned-in-text", f"text recognition found {len(found)} words on {frames} frames"
        )

    def _face(self, item: VisualItem) -> VisualItem | Refused:
        if not item.pixels.face or item.kind != "volume" or self.policy.faces == "keep":
            return item
        if self.policy.faces == "flag":
            return _flagged(item, FACE)
        why = f"a face could be made from the volume ({', '.join(item.pixels.face)})"
        if self.policy.faces == "remove":
            from data_connectors.deid.deface import defaced

            without = defaced(item)
            if without is not None:
                return _flagged(without, DEFACED)
            why += "; no head was found in it"
        return Refused(
            "face-visible", why, "deface it with a tool of your own, or set deid.faces: flag",
            item.inputs,
        )  # fmt: skip

    def _held(self, item: VisualItem, code: str, why: str) -> Refused:
        review.hold(item, self.held, self.key)
        return Refused(code, why, _REVIEW, item.inputs, item.digest)


def _because(facts: PixelFacts) -> str:
    return f"the pixels may show text ({', '.join(facts.text) or 'ocr-all'})"


def _flagged(item: VisualItem, flag: str) -> VisualItem:
    return replace(item, flags=(*item.flags, flag))
