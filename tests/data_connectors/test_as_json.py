from __future__ import annotations

from dataclasses import fields, is_dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_connectors.as_json import from_json, to_json
from data_connectors.ingest.records import Stored, UnitRecord
from data_connectors.items import (
    Identity,
    Payload,
    Refused,
    Region,
    ReportItem,
    Span,
    VisualItem,
)
from medvlp.types import Finding, Geometry, Report, Sentence, Text

floats = st.floats(allow_nan=False)


def plain(value):
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    return value


def record(text: str, number: float) -> UnitRecord:
    item = VisualItem(
        identity=Identity("P", "S", "A", (text, "x")), kind="clip", modality="ES",
        payload=Payload(()), geometry=Geometry(shape=(1, 2), window=(number, 2.0), unit="HU"),
        inputs=("a/b", text), digest="d", texts=(Text("caption", "t", text, number, None),),
        findings=(Finding("mass", text, "absent", number, side="left", start=1, end=2),),
        labels=("x",), spans=(Span("phase", number, 2.0, (Text("phase", "t", text),), ("l",), 0),),
        regions=(Region("mass", None, b"\x00\xff" + text.encode(), None),
                 Region("mass", "left", None, (1.0, 2.0, 3.0, number))),
    )  # fmt: skip
    report = Report("a " + text, {"findings": (0, 1)}, (Sentence("a", 0, 1, "findings"),))
    return UnitRecord(
        (Stored(item, "k", 0, 7, (("0000.jpg", 0),)),),
        (ReportItem(Identity("P"), report, ("r",)),),
        (Refused("code", text, "next", ("q",)),),
    )


@given(st.text(), floats)
def test_a_record_survives_its_json_form_exactly(text, number):
    one = record(text, number)
    assert plain(from_json(UnitRecord, to_json(one))) == plain(one)


def test_numpy_scalars_become_plain_numbers():
    slipped = Geometry(shape=(3,), fps=0.5)
    # Type checks of the tests would refuse them at the door; in production nothing does.
    object.__setattr__(slipped, "shape", (np.int64(3),))
    object.__setattr__(slipped, "fps", np.float32(0.5))
    text = to_json(slipped)
    assert from_json(Geometry, text) == Geometry(shape=(3,), fps=0.5)
