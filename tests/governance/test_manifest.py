import json
from pathlib import Path

import pytest

from governance.manifest import check_manifest, write_manifest
from medvlp.errors import IntegrityError


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    root = tmp_path / "bundle"
    (root / "model").mkdir(parents=True)
    (root / "model/weights.bin").write_bytes(bytes(range(256)))
    (root / "card.md").write_text("card")
    write_manifest(root, name="m")
    return root


def test_an_untouched_bundle_passes(bundle: Path) -> None:
    manifest = check_manifest(bundle)
    assert set(manifest["files"]) == {"model/weights.bin", "card.md"}
    assert manifest["name"] == "m"


@pytest.mark.parametrize("position", [0, 17, 255])
def test_one_changed_byte_is_found_by_name(bundle: Path, position: int) -> None:
    path = bundle / "model/weights.bin"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"model/weights\.bin changed") as caught:
        check_manifest(bundle)
    assert "card.md" not in str(caught.value)


def test_missing_and_extra_files_are_found_by_name(bundle: Path) -> None:
    (bundle / "card.md").rename(bundle / "other.md")
    with pytest.raises(IntegrityError) as caught:
        check_manifest(bundle)
    assert "card.md missing" in str(caught.value)
    assert "other.md not in the manifest" in str(caught.value)


def test_a_link_is_refused(bundle: Path) -> None:
    (bundle / "link").symlink_to(bundle / "card.md")
    with pytest.raises(IntegrityError, match="bundle-link"):
        check_manifest(bundle)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": []}', '{"files": {"a": 1}}'])
def test_a_broken_manifest_is_refused(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(IntegrityError, match="bundle-manifest-broken"):
        check_manifest(bundle)


def test_a_name_that_climbs_out_is_only_a_missing_file(bundle: Path) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../secret"] = {"sha256": "0" * 64, "size": 1}
    path.write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="secret missing"):
        check_manifest(bundle)
