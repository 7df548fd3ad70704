"""A real archive on loopback, and series to put into it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from data_connectors.pacs.source import DicomwebSource, DimseSource

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "puller", "s3cret-Canary-77"
FAST = {"requests_per_s": 10_000, "longest_wait_s": 0.05, "retries": 2}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def slice_of(
    study: str, series: str, number: int, *, patient: str = "P-1", uid: str = "", **changes: Any
) -> Dataset:
    """A CT slice of 16 x 16, all of it decided by its UID."""
    uid = uid or f"{series}.{number + 1}"
    seed = int.from_bytes(uid.encode()[-8:], "big")
    pixels = np.random.default_rng(seed).integers(0, 2000, (16, 16)).astype(np.int16)
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.FrameOfReferenceUID = f"{series}.0"
    dataset.PatientID, dataset.PatientName = patient, "Zyxwv^Canary"
    dataset.AccessionNumber, dataset.StudyID = f"A{study[-8:]}", "1"
    dataset.StudyDate, dataset.Modality = "20240229", "CT"
    dataset.StudyDescription, dataset.SeriesDescription = "CT Chest", "Axial 2 mm"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.InstanceNumber = number + 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = 16
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelSpacing, dataset.SliceThickness = [0.8, 0.8], 2
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [0, 0, 2.0 * number]
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def write(folder: Path, datasets: list[Dataset]) -> Path:
    """The files of some datasets in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for dataset in datasets:
        name = f"{len(list(folder.iterdir())):06d}.dcm"
        dataset.save_as(folder / name, enforce_file_format=True)
    return folder


def encoded(dataset: Dataset, folder: Path) -> bytes:
    """The bytes of one file."""
    path = write(folder, [dataset]) / "000000.dcm"
    data = path.read_bytes()
    path.unlink()
    return data


@dataclass(slots=True)
class Orthanc:
    """One running archive."""

    http: int
    dicom: int
    listen: int
    """The port that it moves to for the AE title MEDVLP."""
    storescu: str

    def store(self, folder: Path) -> None:
        """C-STORE every file of a folder with DCMTK."""
        subprocess.run(
            [self.storescu, "-aec", "ORTHANC", "+sd", "127.0.0.1", str(self.dicom), str(folder)],
            check=True, timeout=120, capture_output=True,
        )  # fmt: skip

    def upload(self, file: bytes) -> None:
        """Store one file as it is."""
        self.rest("/instances", method="POST", body=file)

    def rest(self, path: str, *, method: str = "GET", body: Any = None) -> Any:
        """Orthanc's own interface."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}{path}", method=method, data=data,
            headers={"Authorization": "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"null")

    def clear(self) -> None:
        """Delete everything."""
        for patient in self.rest("/patients"):
            self.rest(f"/patients/{patient}", method="DELETE")

    def delete(self, level: str, uid: str) -> None:
        """Delete what has a UID; level `Series` or `Instance`."""
        keyword = {"Series": "SeriesInstanceUID", "Instance": "SOPInstanceUID"}[level]
        found = self.rest(
            "/tools/find", method="POST", body={"Level": level, "Query": {keyword: uid}}
        )
        assert found
        for one in found:
            self.rest(f"/{level.lower().replace('series', 'serie')}s/{one}", method="DELETE")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}/dicom-web"


@pytest.fixture(scope="session")
def running_orthanc(
    program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Orthanc]:
    binary, storescu = program("Orthanc"), program("storescu")
    if not PLUGIN.exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("orthanc-dicomweb is not installed")
    folder = tmp_path_factory.mktemp("orthanc")
    archive = Orthanc(free_port(), free_port(), free_port(), storescu)
    (folder / "orthanc.json").write_text(json.dumps({
        "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
        "HttpPort": archive.http, "DicomPort": archive.dicom, "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False, "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD}, "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "DicomAlwaysAllowEcho": True, "DicomAlwaysAllowStore": True, "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True,
        "DicomModalities": {"medvlp": ["MEDVLP", "127.0.0.1", archive.listen]},
        "OverwriteInstances": False, "SynchronousCMove": True,
    }))  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binary, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                archive.rest("/system")
                break
            except (OSError, urllib.error.URLError):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield archive
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def orthanc(running_orthanc: Orthanc) -> Orthanc:
    """A running archive with nothing in it."""
    running_orthanc.clear()
    return running_orthanc


Make = Callable[..., Any]


@pytest.fixture
def web(orthanc: Orthanc, tmp_path: Path) -> Make:
    """`web(**keys)`: the config of the running archive's DICOMweb."""
    secret = tmp_path / "secret"
    secret.write_text(f"{USER}:{PASSWORD}\n")
    secret.chmod(0o600)

    def make(**keys: Any) -> DicomwebSource:
        return DicomwebSource(**{
            "name": "pacs", "url": orthanc.url, "credentials": {"file": secret}, "pace": FAST,
        } | keys)  # fmt: skip

    return make


@pytest.fixture
def dimse(orthanc: Orthanc) -> Make:
    """`dimse(**keys)`: the config of the running archive's DIMSE."""

    def make(**keys: Any) -> DimseSource:
        return DimseSource(**{
            "name": "pacs", "host": "127.0.0.1", "port": orthanc.dicom, "called": "ORTHANC",
            "listen": {"port": orthanc.listen}, "pace": FAST,
        } | keys)  # fmt: skip

    return make


@pytest.fixture(params=["dicomweb", "get", "move"])
def anyway(request: pytest.FixtureRequest, web: Make, dimse: Make) -> Make:
    """`anyway(**keys)`: a config of the running archive, by each way to retrieve."""
    if request.param == "dicomweb":
        return web
    return lambda **keys: dimse(retrieve=request.param, **keys)


class Fake:
    """A web server on loopback that answers what a test tells it, and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda handler: None
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                with suppress(OSError):
                    fake.answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/dicom-web"

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.seen]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def reply(
    handler: BaseHTTPRequestHandler, body: bytes = b"", *, status: int = 200, kind: str = "",
    length: int | None = None, **headers: str,
) -> None:  # fmt: skip
    """Send one answer; `length` may lie."""
    handler.send_response(status)
    if kind:
        handler.send_header("Content-Type", kind)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def multipart(files: list[bytes], *, end: bool = True) -> bytes:
    head = b"--b0undary\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + file + b"\r\n" for file in files) + b"--b0undary--" * end


MULTIPART = 'multipart/related; type="application/dicom"; boundary=b0undary'


class FakeArchive:
    """A well-behaved DICOMweb archive of some datasets; tests bend parts of it."""

    page_cap = 1000

    def __init__(self, datasets: list[Dataset], folder: Path) -> None:
        self.files = {str(d.SOPInstanceUID): encoded(d, folder) for d in datasets}
        self.rows = [self._row(d) for d in datasets]
        self.counts = True

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        path, _, query = handler.path.partition("?")
        parts = path.removeprefix("/dicom-web/").split("/")
        keys = dict(parse_qsl(query))
        match parts:
            case ["studies"]:
                self.listing(handler, self.level("0020000D"), keys)
            case ["studies", study, "series"]:
                rows = [r for r in self.level("0020000E") if r["0020000D"]["Value"] == [study]]
                self.listing(handler, rows, keys)
            case ["studies", _, "series", series, "instances"]:
                rows = [r for r in self.rows if r["0020000E"]["Value"] == [series]]
                self.listing(handler, rows, keys)
            case ["studies", _, "series", series]:
                self.whole(handler, [
                    r["00080018"]["Value"][0] for r in self.rows
                    if r["0020000E"]["Value"] == [series]
                ])  # fmt: skip
            case ["studies", _, "series", _, "instances", uid]:
                self.one(handler, uid)
            case _:
                reply(handler, status=404)

    def listing(self, handler: Any, rows: list[Any], keys: dict[str, str]) -> None:
        start = int(keys.get("offset", 0))
        count = min(int(keys.get("limit", 100)), self.page_cap)
        page = rows[start : start + count]
        reply(handler, json.dumps(page).encode(), kind="application/dicom+json")

    def whole(self, handler: Any, uids: list[str]) -> None:
        reply(handler, multipart([self.files[uid] for uid in uids]), kind=MULTIPART)

    def one(self, handler: Any, uid: str) -> None:
        if uid in self.files:
            reply(handler, multipart([self.files[uid]]), kind=MULTIPART)
        else:
            reply(handler, status=404)

    def level(self, tag: str) -> list[Any]:
        """One row a study or series."""
        found: dict[str, Any] = {}
        for row in self.rows:
            found.setdefault(row[tag]["Value"][0], row)
        return list(found.values())

    def _row(self, dataset: Dataset) -> dict[str, Any]:
        tags = {
            "00080016": "SOPClassUID", "00080018": "SOPInstanceUID", "00080020": "StudyDate",
            "00080050": "AccessionNumber", "00080060": "Modality", "00081030": "StudyDescription",
            "0008103E": "SeriesDescription", "00100020": "PatientID",
            "0020000D": "StudyInstanceUID", "0020000E": "SeriesInstanceUID",
        }  # fmt: skip
        return {tag: {"vr": "XX", "Value": [str(dataset.get(key))]} for tag, key in tags.items()}


@pytest.fixture
def fake() -> Iterator[Callable[[], Fake]]:
    """`fake()` starts another web server."""
    started: list[Fake] = []

    def start() -> Fake:
        started.append(Fake())
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def faked(fake: Callable[[], Fake], tmp_path: Path) -> Callable[..., tuple[Any, Fake]]:
    """`faked(answer, **keys)`: a config for a web server that answers so, and the server."""
    secret = tmp_path / "secret"
    secret.write_text(f"{USER}:{PASSWORD}")
    secret.chmod(0o600)

    def make(answer: Callable[[Any], None], **keys: Any) -> tuple[DicomwebSource, Fake]:
        server = fake()
        server.answer = answer
        return DicomwebSource(**{
            "name": "pacs", "url": server.url, "credentials": {"file": secret},
            "pace": FAST | keys.pop("pace", {}),
        } | keys), server  # fmt: skip

    return make
