"""DIMSE against a real archive, and against peers that misbehave."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless
from pynetdicom import AE, evt

from data_connectors.pacs.archive import Series
from data_connectors.pacs.association import (
    MAX_CONTEXTS,
    STUDY_FIND,
    STUDY_GET,
    STUDY_MOVE,
    VERIFICATION,
    storage_rounds,
)
from data_connectors.pacs.listener import Listener
from data_connectors.pacs.pacing import Pacer
from data_connectors.pacs.pull import pulled
from data_connectors.pacs.pulled import Pulled
from data_connectors.pacs.source import DimseSource, Pace
from medvlp.errors import ArchiveError, ConfigError
from tests.data_connectors.pacs.conftest import FAST, free_port, slice_of, write

CT = "1.2.840.10008.5.1.4.1.1.2"


def series(name: int, count: int, **changes: Any) -> list[Dataset]:
    study, uid = f"1.2.840.{name}", f"1.2.840.{name}.7"
    return [slice_of(study, uid, k, patient=f"P-{name}", **changes) for k in range(count)]


def run(source: DimseSource, folder: Path) -> Pulled:
    with pulled(source, folder) as made:
        return made


class Scp:
    """A query and retrieve SCP in this process; tests bend its handlers."""

    def __init__(self, datasets: list[Dataset]) -> None:
        self.datasets = datasets
        self.port = free_port()
        self.finds = 0
        self.gets = 0
        self.final = 0x0000
        self.pending = 0xFF01
        self.classes = True
        self.send: Callable[[list[Dataset]], Iterator[Any]] = lambda found: iter(found)

    def find(self, event: Any) -> Iterator[Any]:
        self.finds += 1
        keys = event.identifier
        rows: dict[str, Dataset] = {}
        unique = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID",
                  "IMAGE": "SOPInstanceUID"}[keys.QueryRetrieveLevel]  # fmt: skip
        for dataset in self.matching(keys):
            row = Dataset()
            row.QueryRetrieveLevel = keys.QueryRetrieveLevel
            for element in keys:
                if element.keyword in dataset:
                    setattr(row, element.keyword, dataset[element.keyword].value)
            if not self.classes and "SOPClassUID" in row:
                del row.SOPClassUID
            rows[dataset[unique].value] = row
        for row in rows.values():
            yield self.pending, row
        if self.final:
            yield self.final, None

    def get(self, event: Any) -> Iterator[Any]:
        self.gets += 1
        found = list(self.send(self.matching(event.identifier)))
        yield len(found)
        for dataset in found:
            if dataset is None:
                event.assoc.abort()
                return
            yield 0xFF00, dataset

    def matching(self, keys: Dataset) -> list[Dataset]:
        names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        wanted = {name: str(keys.get(name, "")) for name in names}
        return [d for d in self.datasets
                if all(not v or str(d[k].value) == v for k, v in wanted.items())]  # fmt: skip

    @contextmanager
    def running(self, *, get: bool = True, move: int = 0, ssl_context: Any = None) -> Iterator[Scp]:
        entity = AE(ae_title="FAKE")
        entity.add_supported_context(VERIFICATION)
        entity.add_supported_context(STUDY_FIND)
        if get:
            entity.add_supported_context(STUDY_GET)
            entity.add_supported_context(CT, ExplicitVRLittleEndian, scu_role=True, scp_role=True)
        if move:
            entity.add_supported_context(STUDY_MOVE)
            entity.add_requested_context(CT, ExplicitVRLittleEndian)

        def send(event: Any) -> Iterator[Any]:
            found = self.matching(event.identifier)
            yield "127.0.0.1", move
            yield len(found)
            yield from ((0xFF00, dataset) for dataset in found)

        server = entity.start_server(
            ("127.0.0.1", self.port), block=False, ssl_context=ssl_context,
            evt_handlers=[
                (evt.EVT_C_FIND, self.find), (evt.EVT_C_GET, self.get), (evt.EVT_C_MOVE, send),
            ],
        )  # fmt: skip
        try:
            yield self
        finally:
            server.shutdown()

    def source(self, **keys: Any) -> DimseSource:
        return DimseSource(**{
            "name": "pacs", "host": "127.0.0.1", "port": self.port, "called": "FAKE",
            "retrieve": "get", "pace": FAST | keys.pop("pace", {}),
        } | keys)  # fmt: skip


def test_pending_with_unsupported_keys_is_a_match_too(tmp_path):
    with Scp(series(1, 3)).running() as scp:
        made = run(scp.source(), tmp_path / "store")
    assert (made.instances, made.refused) == (3, [])


def test_an_archive_that_tells_no_sop_class_is_asked_for_all_of_them(tmp_path):
    scp = Scp(series(1, 3))
    scp.classes = False
    with scp.running():
        made = run(scp.source(), tmp_path / "store")
    assert (made.instances, made.refused) == (3, [])
    assert scp.gets == 1  # CT is asked for first


def test_an_association_that_is_aborted_in_the_middle_is_gone_on_with(tmp_path):
    scp = Scp(series(1, 4))
    turns = []

    def send(found):
        turns.append(len(found))
        yield from found[:2]
        if len(turns) == 1:
            yield None  # abort
        yield from found[2:]

    scp.send = send
    with scp.running():
        made = run(scp.source(), tmp_path / "store")
    assert (made.instances, made.refused) == (4, [])


def test_sub_operations_that_fail_refuse_the_series_with_counts(tmp_path):
    scp = Scp([*series(1, 3), *series(2, 2)])
    scp.send = lambda found: (d for d in found if d.SOPInstanceUID != "1.2.840.1.7.2")
    with scp.running():
        made = run(scp.source(), tmp_path / "store")
    assert (made.series, made.instances) == (2, 2)
    assert [(r.code, len(r.inputs)) for r in made.refused] == [("pacs-incomplete", 3)]


@pytest.mark.parametrize(
    ("status", "code"),
    [(0xA700, "pacs-unreachable"), (0xA900, "pacs-refused"), (0xC001, "pacs-refused")],
)
def test_a_query_that_fails_ends_the_pull(tmp_path, status, code):
    scp = Scp(series(1, 1))
    scp.final = status
    with scp.running(), pytest.raises(ArchiveError) as caught:
        run(scp.source(), tmp_path / "store")
    assert caught.value.code == code
    assert scp.finds == (3 if code == "pacs-unreachable" else 1)


def test_an_archive_without_c_get_is_asked_to_move(tmp_path):
    port = free_port()
    with Scp([*series(1, 3), *series(2, 2)]).running(get=False, move=port) as scp:
        made = run(scp.source(retrieve="auto", listen={"port": port}), tmp_path / "store")
    assert (made.instances, made.refused) == (5, [])


def test_an_archive_without_c_get_is_said_so(tmp_path):
    with Scp(series(1, 1)).running(get=False) as scp:
        made = run(scp.source(), tmp_path / "store")
    assert [r.code for r in made.refused] == ["pacs-incomplete"]


def test_an_unknown_ae_title_is_an_error_with_a_next_step(tmp_path):
    scp = Scp([])
    entity = AE(ae_title="FAKE")
    entity.add_supported_context(VERIFICATION)
    entity.require_calling_aet = ["SOMEBODY"]
    server = entity.start_server(("127.0.0.1", scp.port), block=False)
    try:
        with pytest.raises(ArchiveError, match="pacs-unauthorised"):
            run(scp.source(), tmp_path / "store")
    finally:
        server.shutdown()


def test_an_archive_that_is_not_there_is_unreachable(tmp_path):
    with pytest.raises(ArchiveError, match="pacs-unreachable"):
        run(Scp([]).source(), tmp_path / "store")


@contextmanager
def raw_peer(reply: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that answers every connection with bytes of the test."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=one, args=(connection,), daemon=True).start()

    def one(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.recv(65_536)
            reply(connection)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        server.close()


def huge(connection: socket.socket) -> None:
    connection.sendall(struct.pack(">BBL", 2, 0, 200_000_000))  # below max_bytes
    for _ in range(200):
        connection.sendall(b"\0" * 1_000_000)


def trickle(connection: socket.socket) -> None:
    connection.sendall(struct.pack(">BBL", 2, 0, 60_000))
    for _ in range(200):
        connection.sendall(b"\0")
        time.sleep(0.05)


def garbage(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def silence(connection: socket.socket) -> None:
    time.sleep(5)


@pytest.mark.parametrize("reply", [huge, trickle, garbage, silence])
def test_peers_that_send_too_much_too_slowly_or_nonsense_are_given_up(tmp_path, reply):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pace = {"connect_timeout_s": 0.5, "silence_timeout_s": 0.5, "request_timeout_s": 0.7,
            "retries": 0}  # fmt: skip
    began = time.monotonic()
    with raw_peer(reply) as port, pytest.raises(ArchiveError, match="pacs-unreachable"):
        run(Scp([]).source(port=port, pace=pace), tmp_path / "store")
    assert time.monotonic() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB


# Our own listener, for C-MOVE.


@pytest.fixture
def listening(tmp_path):
    source = DimseSource(
        name="pacs", host="127.0.0.1", port=1, called="ARCHIVE", listen={"port": free_port()},
        pace=FAST | {"silence_timeout_s": 2}, max_bytes=200_000,
    )  # fmt: skip
    (tmp_path / "incoming").mkdir()
    listener = Listener(source, Pacer(source.pace), tmp_path / "incoming")
    yield listener, source
    listener.close()


def send(
    source: DimseSource, dataset: Dataset, *, us: str = "ARCHIVE", them: str = "MEDVLP"
) -> Any:
    """The status of a C-STORE to our listener; None if there is no association."""
    entity = AE(ae_title=us)
    entity.add_requested_context(CT, ExplicitVRLittleEndian)
    peer = entity.associate("127.0.0.1", source.listen.port, ae_title=them)
    if not peer.is_established:
        return None
    try:
        answer = peer.send_c_store(dataset)
        return answer.get("Status")
    finally:
        peer.release() if peer.is_established else peer.abort()


def test_only_the_archive_may_send_and_only_to_our_title(listening):
    listener, source = listening
    dataset = series(1, 1)[0]
    taken: list[Path] = []
    wanted = Series("1.2.840.1", "1.2.840.1.7", ("P-1",), 1)
    with listener.expecting(wanted, {"1.2.840.1.7.1": CT}, taken.append):
        assert send(source, dataset, us="STRANGER") is None
        assert send(source, dataset, them="OTHER") is None
        assert taken == []
        assert send(source, dataset) == 0
    assert len(taken) == 1


def test_what_nobody_asked_for_is_refused_and_leaves_nothing(listening, tmp_path):
    listener, source = listening
    asked = Series("1.2.840.1", "1.2.840.1.7", ("P-1",), 1)
    taken: list[Path] = []
    assert send(source, series(1, 1)[0]) == 0x0124
    with listener.expecting(asked, {"1.2.840.1.7.1": CT}, taken.append):
        assert send(source, series(2, 1)[0]) == 0x0124
    with listener.expecting(asked, {}, taken.append):
        assert send(source, series(2, 1)[0]) == 0xC000
    assert taken == []
    assert not list((tmp_path / "incoming").iterdir())


def test_a_file_beyond_the_limit_ends_the_association(listening, tmp_path):
    listener, source = listening
    big = slice_of("1.2.840.1", "1.2.840.1.7", 0, patient="P-1", ImageComments="x" * 4_000_000)
    big["ImageComments"].VR = "UT"
    asked = Series("1.2.840.1", "1.2.840.1.7", ("P-1",), 1)
    taken: list[Path] = []
    with listener.expecting(asked, {"1.2.840.1.7.1": CT}, taken.append):
        assert send(source, big) is None
        assert taken == []
        assert send(source, series(1, 1)[0]) == 0
    assert len(taken) == 1


def test_an_oversized_pdu_is_not_waited_for(listening):
    _, source = listening
    with socket.create_connection(("127.0.0.1", source.listen.port)) as sock:
        sock.sendall(struct.pack(">BBL", 1, 0, 0xFFFF_FFF0) + b"\0" * 1000)
        sock.settimeout(5)
        assert sock.recv(100)[:1] in (b"", b"\7")  # closed, or an abort


def test_it_listens_on_loopback_by_default(listening):
    listener, source = listening
    assert source.listen.bind == "127.0.0.1"
    assert listener._server.socket.getsockname()[0] == "127.0.0.1"


def test_a_port_in_use_is_said_so(listening, tmp_path):
    _, source = listening
    with pytest.raises(ConfigError, match="pacs-listen"):
        Listener(source, Pacer(Pace()), tmp_path / "incoming")


def test_contexts_come_in_rounds_that_fit_an_association():
    every = list(storage_rounds([""], first=[]))
    assert max(len(one) for one in every) <= MAX_CONTEXTS
    assert {c.abstract_syntax for c in every[0]} >= {CT}
    assert len({c.abstract_syntax for one in every for c in one}) > 150
    (only,) = storage_rounds([CT], first=[])
    offered = [tuple(c.transfer_syntax) for c in only]
    assert (JPEGLSLossless,) in offered
    assert {c.abstract_syntax for c in only} == {CT}


def test_compressed_files_come_as_they_are_stored(orthanc, dimse, tmp_path):
    datasets = series(1, 2)
    for dataset in datasets:
        dataset.compress(JPEGLSLossless, encoding_plugin="pyjpegls", generate_instance_uid=False)
    folder = write(tmp_path / "in", datasets)
    for file in folder.iterdir():
        orthanc.upload(file.read_bytes())
    import pydicom

    for how in ("get", "move"):
        made = run(dimse(retrieve=how), tmp_path / how)
        assert made.instances == 2
        for file in (tmp_path / how / "dicom").rglob("*.dcm"):
            assert pydicom.dcmread(file).file_meta.TransferSyntaxUID == JPEGLSLossless
