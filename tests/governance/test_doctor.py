import pytest

from governance import doctor
from medvlp.errors import DependencyError


def test_every_required_package_has_a_version_and_h264_decodes() -> None:
    facts = doctor.diagnose()
    assert all(facts["packages"].values()), facts["packages"]
    assert "h264" in facts["video"]["decoders"]


@pytest.mark.parametrize("syntax", ["JPEG-LS Lossless", "JPEG Lossless", "JPEG 2000", "RLE"])
def test_the_codecs_of_the_field_are_there(syntax: str) -> None:
    assert any(name.startswith(syntax) for name in doctor.diagnose()["dicom_decoders"])


def test_a_broken_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", ("medvlp_no_such_package",))
    with pytest.raises(DependencyError, match="medvlp_no_such_package does not load"):
        doctor.diagnose(require=True)
