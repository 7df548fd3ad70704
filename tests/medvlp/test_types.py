import numpy as np
import pytest
import torch

from medvlp.errors import GeometryError, InputError, MedvlpError
from medvlp.types import Batch, Report, Sentence, Transcript, Utterance, Visual, Volume


def test_a_volume_must_have_three_axes_and_an_invertible_affine() -> None:
    with pytest.raises(GeometryError):
        Volume(np.zeros((4, 4)), np.eye(4), "HU")
    with pytest.raises(GeometryError):
        Volume(np.zeros((2, 4, 4)), np.zeros((4, 4)), "HU")


def test_spacing_is_the_length_of_each_index_step() -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 0.7], [0, 0.8, 0], [5.0, 0, 0]])
    volume = Volume(np.zeros((2, 3, 4), np.int16), affine, "HU")
    assert volume.spacing_mm == pytest.approx((5.0, 0.8, 0.7))


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 4), (1, 4, 4, 2)])
def test_a_visual_needs_frames_of_a_known_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        Visual(np.zeros(shape, np.uint8), np.zeros(shape[0]), "image", "raw")


def test_a_visual_has_one_position_a_frame() -> None:
    with pytest.raises(InputError):
        Visual(np.zeros((3, 4, 4), np.uint8), np.zeros(2), "clip", "raw")


def test_a_report_says_something() -> None:
    with pytest.raises(InputError, match="report-empty"):
        Report("  \n", {}, ())
    report = Report("FINDINGS: Clear.", {"findings": (9, 16)}, (Sentence("Clear.", 10, 16, "f"),))
    assert report.section("findings") == "Clear."
    assert report.section("impression") is None


def test_an_utterance_ends_after_it_starts() -> None:
    with pytest.raises(InputError, match="transcript-time-order"):
        Utterance("hello", 3.0, 2.0)


def test_between_takes_what_overlaps_and_nothing_that_only_touches() -> None:
    spoken = Transcript("a", (Utterance("x", 0, 1), Utterance("y", 1, 2), Utterance("z", 2, 3)))
    assert [u.text for u in spoken.between(1.0, 2.0)] == ["y"]
    assert [u.text for u in spoken.between(0.5, 2.5)] == ["x", "y", "z"]


def test_an_error_says_what_got_limit_and_next_in_one_line() -> None:
    error = MedvlpError("too\nlarge", code="x-y", got=3, limit=2, next_step="shrink it")
    assert str(error) == "[x-y] too large; got 3; limit 2; next: shrink it"


def test_a_batch_moves_as_a_whole() -> None:
    batch = Batch(
        frames=torch.zeros(2, 3, 4, 4),
        offsets=torch.tensor([0, 2]),
        positions=torch.zeros(2),
        kind=torch.tensor([1]),
        tokens=torch.zeros(1, 5, dtype=torch.long),
        token_mask=torch.ones(1, 5, dtype=torch.bool),
        text_offsets=torch.tensor([0, 1]),
        text_key=torch.tensor([7]),
        claims=torch.zeros(1, 3, dtype=torch.int8),
        stated=torch.zeros(1, 3, dtype=torch.int8),
        keys=("a",),
    )
    moved = batch.to("meta")
    assert moved.frames.device.type == moved.stated.device.type == "meta"
    assert moved.keys == ("a",)
    assert len(batch) == 1
