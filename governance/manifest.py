"""A bundle's manifest: every file with its size and SHA-256, and what it was made from."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medvlp import __version__
from medvlp.errors import IntegrityError
from medvlp.files import file_digest, write_json

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1


def write_manifest(bundle: Path, **facts: Any) -> str:
    """List every file of a bundle; return the manifest's own digest."""
    files = {
        path.relative_to(bundle).as_posix(): {
            "sha256": file_digest(path),
            "size": path.stat().st_size,
        }
        for path in _files(bundle)
    }
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "medvlp_version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
        "files": files,
    }
    write_json(bundle / MANIFEST, manifest, sort_keys=True)
    return file_digest(bundle / MANIFEST)


def check_manifest(bundle: Path) -> dict[str, Any]:
    """Compare every file with the manifest.

    Raises:
        IntegrityError: The manifest is missing or unreadable, or a file is changed, missing or
            extra; the message names each such file.
    """
    manifest = _read(bundle)
    listed: dict[str, dict[str, Any]] = manifest["files"]
    found = {path.relative_to(bundle).as_posix(): path for path in _files(bundle)}
    problems = [f"{name} missing" for name in sorted(listed.keys() - found.keys())]
    problems += [f"{name} not in the manifest" for name in sorted(found.keys() - listed.keys())]
    problems += [
        f"{name} changed"
        for name in sorted(listed.keys() & found.keys())
        if found[name].stat().st_size != listed[name]["size"]
        or file_digest(found[name]) != listed[name]["sha256"]
    ]
    if problems:
        raise IntegrityError(
            "the bundle is not what was released: " + ", ".join(problems),
            code="bundle-tampered",
            next_step="get the bundle again from its registry",
        )
    return manifest


def _files(bundle: Path) -> list[Path]:
    """Every file but the manifest; a link is refused, because it can point anywhere."""
    paths = []
    for path in sorted(bundle.rglob("*")):
        if path.is_symlink():
            raise IntegrityError(
                "a bundle holds no links",
                code="bundle-link",
                got=path.relative_to(bundle).as_posix(),
            )
        if path.is_file() and path != bundle / MANIFEST:
            paths.append(path)
    return paths


def _read(bundle: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        usable = manifest["manifest_version"] == MANIFEST_VERSION and all(
            isinstance(entry["sha256"], str) and isinstance(entry["size"], int)
            for entry in files.values()
        )
    except FileNotFoundError:
        raise IntegrityError(
            "this folder is no bundle", code="bundle-no-manifest", limit=f"a {MANIFEST}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        usable = False
    if not usable:
        raise IntegrityError("the manifest cannot be read", code="bundle-manifest-broken")
    return dict(manifest)
