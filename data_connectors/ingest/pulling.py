"""Sources on the network become folders before anything is planned."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from data_connectors.config import IngestConfig
from data_connectors.dicom.source import DicomReading, DicomSource
from data_connectors.pacs.pulled import Pulled, remove_store
from data_connectors.pacs.source import ArchiveSource
from medvlp.config import Config

C = TypeVar("C", bound=Config)
log = logging.getLogger(__name__)


@contextmanager
def pulled_archives(config: IngestConfig, base: Path, out: Path) -> Iterator[dict[str, Pulled]]:
    """Pull every archive of a config, and keep what was pulled locked until it has been read.

    Raises:
        ArchiveError: An archive cannot be asked; the same call goes on.
        ConfigError: Its credentials, lists or store folder are not usable.
    """
    from data_connectors.pacs.pull import pulled  # pydicom, where there is an archive at all

    made: dict[str, Pulled] = {}
    with ExitStack() as stack:
        for source in config.sources:
            if isinstance(source, ArchiveSource):
                log.info("pulling source %s", source.name)
                store = store_of(source, base, out)
                made[source.name] = stack.enter_context(pulled(at_home(source, base), store))
        yield made


def remove_unkept(config: IngestConfig, base: Path, out: Path) -> None:
    """Delete the store folders that the config does not want kept, after success."""
    for source in config.sources:
        if isinstance(source, ArchiveSource) and not source.keep:
            remove_store(store_of(source, base, out))


def store_of(source: ArchiveSource, base: Path, out: Path) -> Path:
    """The store folder of an archive."""
    if source.store is not None:
        return (base / source.store).resolve()
    return out.absolute().with_name(out.name + ".pulled") / source.name


def as_folder(source: ArchiveSource, base: Path, out: Path) -> DicomSource:
    """The folder source that reads what was pulled from an archive."""
    source = at_home(source, base)
    keys = ("name", "licence", "domain", *DicomReading.model_fields)
    values = {key: getattr(source, key) for key in keys}
    return DicomSource(path=store_of(source, base, out) / "dicom", **values)


def at_home(config: C, base: Path) -> C:
    """A config whose relative paths start from the folder of the config file, all the way down."""
    changes: dict[str, object] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Path):
            changes[name] = base.absolute() / value
        elif isinstance(value, Config):
            changes[name] = at_home(value, base)
    return config.model_copy(update=changes)
