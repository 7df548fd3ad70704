"""`medvlp doctor`: what this machine has."""

from __future__ import annotations

import importlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from medvlp import __version__
from medvlp.errors import DependencyError

REQUIRED = (
    "torch", "torchvision", "lightning", "mlflow", "monai", "timm", "open_clip", "transformers",
    "tokenizers", "safetensors", "pydicom", "av", "decord", "pyarrow", "sklearn", "matplotlib",
)  # fmt: skip
OPTIONAL = {
    "pynetdicom": "pacs",
    "ray": "ray",
    "highdicom": "seg",
    "onnx": "onnx",
}
DISTRIBUTION = {"open_clip": "open_clip_torch", "sklearn": "scikit-learn"}


def diagnose(*, require: bool = False) -> dict[str, Any]:
    """Versions, processors, codecs and optional parts of this machine.

    Args:
        require: Import every required package and refuse when one does not load.

    Raises:
        DependencyError: With `require`, a required package is missing or broken; the message
            names it and, for a missing system library, the library.
    """
    if require:
        _import_required()
    return {
        "medvlp": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "packages": {name: _version(name) for name in REQUIRED},
        "optional": {
            name: _version(name) or f"not installed: medvlp[{extra}]"
            for name, extra in OPTIONAL.items()
        },
        "accelerators": _accelerators(),
        "bf16": _bf16(),
        "dicom_decoders": _dicom_decoders(),
        "video": _video(),
    }


def _import_required() -> None:
    for name in REQUIRED:
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            raise DependencyError(
                f"{name} does not load: {str(error).splitlines()[0]}",
                next_step="install the package, or the system library that it names",
            ) from error


def _version(name: str) -> str | None:
    try:
        return version(DISTRIBUTION.get(name, name))
    except PackageNotFoundError:
        return None


def _memory_gb() -> float:
    import psutil

    return round(psutil.virtual_memory().total / 2**30, 1)


def _accelerators() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _bf16() -> str:
    """Whether bf16 matrix work is fast on this processor."""
    import torch

    capabilities = torch.backends.cpu.get_cpu_capability()
    flags = _cpu_flags()
    fast = "avx512_bf16" in flags or "amx_bf16" in flags
    return f"{'native' if fast else 'emulated'} ({capabilities})"


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("flags"):
                    return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return set()


def _dicom_decoders() -> dict[str, list[str]]:
    """Which plug-ins can decode which transfer syntax here."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID, AllTransferSyntaxes

    found: dict[str, list[str]] = {}
    for uid in AllTransferSyntaxes:
        try:
            decoder = get_decoder(uid)
        except NotImplementedError:  # pydicom's word for a syntax that it never decodes
            continue
        plugins = sorted(decoder.available_plugins)
        if plugins:
            found[UID(uid).name] = plugins
    return found


def _video() -> dict[str, Any]:
    import av

    codecs = ("h264", "hevc", "vp9", "av1", "mpeg4", "gif")
    return {
        "av": av.__version__,
        "ffmpeg": av.ffmpeg_version_info,
        "decoders": [name for name in codecs if name in av.codecs_available],
    }
