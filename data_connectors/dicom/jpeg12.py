"""12-bit lossy JPEG (extended, and the retired spectral and progressive processes) through GDCM.

No other permissively licensed decoder that installs from wheels reads 12-bit Huffman JPEG, and
pydicom's own GDCM plugin declines it.
"""

from __future__ import annotations

import gdcm
import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame

from data_connectors.dicom.header import text, whole
from medvlp.errors import InputError


def decode_jpeg12(dataset: Dataset, index: int) -> np.ndarray:
    """One grey frame of 9 to 12 bits.

    Args:
        dataset: An object whose transfer syntax is a lossy Huffman JPEG.
        index: Frame number from 0.

    Returns:
        uint16 or int16 [h, w], stored values.

    Raises:
        InputError: It is in colour, deeper, or broken.
    """
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    bits, signed = whole(dataset, "BitsStored"), whole(dataset, "PixelRepresentation") == 1
    grey = max(1, whole(dataset, "SamplesPerPixel")) == 1
    if not grey or whole(dataset, "BitsAllocated") != 16 or not 8 < bits <= 12:
        raise InputError("no such JPEG depth", code="dicom-not-decodable", got=f"{bits} bits")
    frames = max(1, whole(dataset, "NumberOfFrames"))
    buffer = _image(
        dataset, get_frame(dataset.PixelData, index, number_of_frames=frames)
    ).GetBuffer()
    data = b"" if buffer is None else buffer.encode("utf-8", "surrogateescape")
    if len(data) != rows * columns * 2:
        raise InputError("the JPEG cannot be decoded", code="dicom-not-decodable")
    return np.frombuffer(data, "<i2" if signed else "<u2").reshape(rows, columns)


def _image(dataset: Dataset, frame: bytes) -> gdcm.Image:
    """A GDCM image around one encoded frame."""
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((whole(dataset, "Columns"), whole(dataset, "Rows"), 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(text(dataset, "PhotometricInterpretation"))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    syntax = gdcm.TransferSyntax.GetTSType(str(dataset.file_meta.TransferSyntaxUID))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    bits = whole(dataset, "BitsStored")
    sign = whole(dataset, "PixelRepresentation")
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, bits, bits - 1, sign))
    return image
