from __future__ import annotations

import logging
import warnings

import pytest
from pydicom import config
from pydicom.misc import warn_and_log

from data_connectors.dicom.quiet import quiet


def test_what_pydicom_says_inside_reaches_neither_log_nor_warnings(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet():
            warn_and_log("CANARY^JANE")
            logging.getLogger("pydicom.pixels.decoders.base").error("CANARY^JANE")
    assert not caught
    assert "CANARY" not in caplog.text


def test_outside_pydicom_speaks_as_before(caplog: pytest.LogCaptureFixture) -> None:
    before = config.settings.reading_validation_mode
    with pytest.raises(RuntimeError, match="stop"), quiet():
        raise RuntimeError("stop")
    assert config.settings.reading_validation_mode == before
    with pytest.warns(UserWarning, match="heard"):
        warn_and_log("heard")
    assert "heard" in caplog.text
