from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from data_connectors.config import IngestConfig
from data_connectors.dataset.store import Dataset
from data_connectors.ingest import planning, reading
from data_connectors.ingest.run import ingest
from data_connectors.items import Identity, Payload, Refused, ReportItem, VisualItem
from data_connectors.source import Unit
from medvlp import audit
from medvlp.errors import ConfigError, DatasetError, InputError, IntegrityError
from medvlp.types import Geometry, Report, Sentence, Text

REPO = Path(__file__).resolve().parents[3]


def config(*sources: dict[str, object], **rest: object) -> IngestConfig:
    return IngestConfig.model_validate({"sources": list(sources), **rest})


def png_source(**keys: object) -> dict[str, object]:
    return {"kind": "images", "name": "pngs", "path": "images",
            "patient_pattern": r"([^/_]+)_\d+\.png$"} | keys  # fmt: skip


def parts(folder: Path) -> dict[str, str]:
    names = ["samples.parquet", "regions.parquet", "quarantine.parquet"]
    paths = [folder / name for name in names] + sorted((folder / "shards").iterdir())
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """Writes PNG files `<patient>_<n>.png` into a folder."""

    def write(*names: str, folder: str = "images") -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        for seed, name in enumerate(names):
            pixels = np.random.default_rng(seed).integers(0, 256, (24, 24), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / name, format="PNG")
        return tmp_path / folder

    return write


# A connector whose units are the files of a folder, one each; what reading them gives is up to
# the test. The engine is real, the files are real, only `read` is not.


class FakeConnector:
    def __init__(self, read):
        self._read = read
        self.seen: list[str] = []

    def find(self, source, spread):
        for path in sorted(source.path.rglob("*")):
            name = path.relative_to(source.path).as_posix()
            if name.startswith("ignored"):
                continue
            yield Unit(id=name, inputs=(name,))

    def read(self, source, unit):
        self.seen.append(unit.id)
        yield from self._read(unit.inputs[0])


@pytest.fixture
def fake(monkeypatch):
    def install(read) -> FakeConnector:
        connector = FakeConnector(read)
        for module in (planning, reading):
            monkeypatch.setattr(module, "connector_of", lambda source: connector)
        return connector

    return install


def visual(name: str, *, patient: str | None = None, pixels: str | None = None, **rest):
    digest = hashlib.sha256((pixels or name).encode())
    return VisualItem(
        identity=Identity(patient if patient is not None else name.split("_")[0]),
        kind="image", modality="DX",
        payload=Payload((("png", digest.digest()),)), geometry=Geometry(),
        inputs=(name,), digest=digest.hexdigest(), **rest,
    )  # fmt: skip


def report(name: str, text: str, *, patient: str, **identity) -> ReportItem:
    body = Report(text, {"findings": (0, len(text))},
                  (Sentence(text, 0, len(text), "findings"),))  # fmt: skip
    return ReportItem(Identity(patient, **identity), body, (name,))


def reasons(folder: Path) -> dict[str, str]:
    return {row["code"]: row["reason"] for row in Dataset.open(folder).quarantine()}


def test_every_input_is_used_or_quarantined_with_a_code(tmp_path, images, fake):
    images("a_1.png", "b_1.png", "c_1.png", "d_1.png", "e_1.png", "f_1.png", "ignored.txt")

    def read(name):
        match name[0]:
            case "a":
                yield visual(name)
            case "b":
                raise ValueError("DOE^JANE has a bad file")
            case "c":
                raise InputError("not usable", code="some-code", got="3 things", next_step="fix")
            case "d":
                yield visual(name, patient="  ")
            case "f":
                yield Refused("own-code", "reason", "next", (name,))

    fake(read)
    summary = ingest(config(png_source()), tmp_path / "out", base=tmp_path, workers=1)
    assert (summary["found"], summary["used"], summary["quarantined"]) == (7, 1, 6)
    assert summary["by_reason"] == {
        "file-unclaimed": 1, "input-unread": 1, "own-code": 1, "patient-missing": 1,
        "reader-failed": 1, "some-code": 1,
    }  # fmt: skip
    said = reasons(tmp_path / "out")
    assert said["reader-failed"] == "the reader failed with ValueError"
    assert "3 things" in said["some-code"]
    assert summary["samples"] == 1


def test_what_was_read_before_a_failure_is_kept(tmp_path, images, fake):
    images("a_1.png")

    def read(name):
        yield visual(name)
        raise RecursionError("deep")

    fake(read)
    summary = ingest(config(png_source()), tmp_path / "out", base=tmp_path, workers=1)
    assert (summary["used"], summary["quarantined"], summary["samples"]) == (1, 0, 1)
    assert "reader-failed" in reasons(tmp_path / "out")


def test_a_reader_that_invents_inputs_fails_the_ingest(tmp_path, images, fake):
    images("a_1.png")
    fake(lambda name: iter([visual(name), visual("never-found_1.png")]))
    with pytest.raises(IntegrityError) as caught:
        ingest(config(png_source()), tmp_path / "out", base=tmp_path, workers=1)
    assert caught.value.code == "inputs-unaccounted"
    assert not (tmp_path / "out").exists()


def test_the_same_pixels_of_a_patient_are_kept_once(tmp_path, images, fake):
    images("a_1.png", "a_2.png", "b_1.png")
    fake(lambda name: iter([visual(name, pixels="same")]))
    summary = ingest(config(png_source()), tmp_path / "out", base=tmp_path, workers=1)
    assert summary["by_reason"] == {"duplicate-visual": 1}
    assert summary["samples"] == 2


def test_patients_with_the_same_pixels_share_a_split(tmp_path, images, fake):
    names = [f"p{i:02d}_1.png" for i in range(30)]
    images(*names)
    fake(lambda name: iter([visual(name, pixels=str(int(name[1:3]) % 15))]))
    ingest(config(png_source()), tmp_path / "out", base=tmp_path, workers=1)
    data = Dataset.open(tmp_path / "out")
    by_size = {}
    for sample in data.samples:
        pixels = data._members(sample, None)[0][1]
        by_size.setdefault(pixels, set()).add(sample.split)
    assert len(by_size) == 15
    assert all(len(splits) == 1 for splits in by_size.values())
    assert {sample.split for sample in data.samples} == {"train", "val", "test"}
    told = [json.loads(line)["facts"] for line in
            (tmp_path / "out" / "audit.jsonl").read_text().splitlines()]  # fmt: skip
    assert {"pairs_of_patients_with_shared_pixels": 15}.items() <= told[3].items()


def test_reports_are_linked_scrubbed_and_read(tmp_path, images, fake):
    images("a_1.png", "a_2.txt", "b_2.txt")
    text = "Quillon Zyxwv, seen 19 July 1942: There is a left pleural effusion. No pneumothorax."

    def read(name):
        if name.endswith("png"):
            identity = Identity("A", study="1.2", accession="77", phi=("ZYXWV^QUILLON",))
            item = visual(name, texts=(Text("caption", "header", "Chest of Zyxwv."),))
            yield VisualItem(**{**{f: getattr(item, f) for f in item.__slots__},
                                "identity": identity})  # fmt: skip
        else:
            patient = "a" if name.startswith("a") else "b"
            yield report(name, text, patient=patient, accession="77" if patient == "a" else "",
                         phi=("19420719",) if patient == "a" else ())  # fmt: skip

    fake(read)
    summary = ingest(config(png_source()), tmp_path / "out", base=tmp_path, workers=1)
    assert summary["links"] == {"accession": 1, "none": 1}
    assert summary["by_kind"] == {"image": 1, "text": 1}
    image, lone = Dataset.open(tmp_path / "out").samples
    clean = "the person, seen a date: There is a left pleural effusion. No pneumothorax."
    assert [(t.level, t.text) for t in image.texts] == [
        ("caption", "Chest of the person."), ("document", clean), ("findings", clean),
        ("sentence", clean),
    ]  # fmt: skip
    stated = {(f.concept, f.polarity, f.side): clean[f.start : f.end] for f in image.findings}
    assert stated["pleural_effusion", "present", "left"] == "pleural effusion"
    assert stated["pneumothorax", "absent", None] == "pneumothorax"
    assert lone.kind == "text"
    assert lone.shard is None
    assert lone.patient != image.patient


def test_domains_keep_equal_patient_numbers_apart(tmp_path, images, fake):
    images("1_1.png", folder="one")
    images("1_1.png", folder="two")
    fake(lambda name: iter([visual(name)]))
    same = [png_source(name="x", path="one"), png_source(name="y", path="two")]
    summary = ingest(config(*same), tmp_path / "same", base=tmp_path, workers=1)
    assert summary["patients"] == 1
    apart = [{**same[0], "domain": "a"}, {**same[1], "domain": "b"}]
    summary = ingest(config(*apart), tmp_path / "apart", base=tmp_path, workers=1)
    assert summary["patients"] == 2


def test_the_order_in_which_files_are_listed_does_not_matter(tmp_path, images, fake, monkeypatch):
    images(*(f"p{i:02d}_1.png" for i in range(9)))
    (tmp_path / "key").write_text("ab" * 32)
    asked = config(png_source(), deid={"key_file": "key"})
    found = FakeConnector.find
    made = []
    for turn in (list, lambda units: list(reversed(list(units)))):
        monkeypatch.setattr(
            FakeConnector,
            "find",
            lambda self, source, spread, turn=turn: turn(found(self, source, spread)),
        )
        fake(lambda name: iter([visual(name)]))
        ingest(asked, tmp_path / f"out{len(made)}", base=tmp_path, workers=1)
        made.append(parts(tmp_path / f"out{len(made)}"))
    assert made[0] == made[1]


def test_a_stopped_ingest_goes_on_where_it_was(tmp_path, images, fake):
    names = [f"p{i:02d}_1.png" for i in range(20)]
    images(*names)
    (tmp_path / "key").write_text("ab" * 32)
    asked = config(png_source(), deid={"key_file": "key"})
    fake(lambda name: iter([visual(name)]))
    ingest(asked, tmp_path / "whole", base=tmp_path, workers=1)

    def stop(name):
        if name == names[12]:
            raise KeyboardInterrupt
        yield visual(name)

    fake(stop)
    with pytest.raises(KeyboardInterrupt):
        ingest(asked, tmp_path / "out", base=tmp_path, workers=1)
    assert not (tmp_path / "out").exists()
    left = tmp_path / "out.partial"
    assert not any(b"p00_1" in p.read_bytes() for p in left.rglob("*") if p.is_file())
    again = fake(lambda name: iter([visual(name)]))
    ingest(asked, tmp_path / "out", base=tmp_path, workers=1)
    assert again.seen == names[12:]
    assert parts(tmp_path / "out") == parts(tmp_path / "whole")
    assert not left.exists()


def test_a_changed_input_is_read_again(tmp_path, images, fake):
    folder = images("a_1.png", "b_1.png", "c_1.png")

    def stop(name):
        if name == "c_1.png":
            raise KeyboardInterrupt
        yield visual(name)

    fake(stop)
    with pytest.raises(KeyboardInterrupt):
        ingest(config(png_source()), tmp_path / "out", base=tmp_path, workers=1)
    (folder / "b_1.png").write_bytes(b"other")
    again = fake(lambda name: iter([visual(name)]))
    ingest(config(png_source()), tmp_path / "out", base=tmp_path, workers=1)
    assert again.seen == ["b_1.png", "c_1.png"]


def test_a_finished_dataset_is_returned_as_it_is(tmp_path, images, fake):
    images("a_1.png")
    fake(lambda name: iter([visual(name)]))
    first = ingest(config(png_source()), tmp_path / "out", base=tmp_path, workers=1)
    again = fake(lambda name: iter(()))
    second = ingest(config(png_source()), tmp_path / "out", base=tmp_path, workers=1)
    assert again.seen == []
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


@pytest.mark.parametrize("what", ["config", "inputs", "key", "folder"])
def test_another_dataset_is_never_overwritten(tmp_path, images, fake, what):
    images("a_1.png")
    fake(lambda name: iter([visual(name)]))
    asked = config(png_source())
    ingest(asked, tmp_path / "out", base=tmp_path, workers=1)
    match what:
        case "config":
            asked = config(png_source(), split={"seed": 1})
        case "inputs":
            images("a_1.png", "b_1.png")
        case "key":
            (tmp_path / "out.key").write_text("ab" * 32)
        case "folder":
            (tmp_path / "out" / "dataset.json").unlink()
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.is_file()}
    with pytest.raises(DatasetError) as caught:
        ingest(asked, tmp_path / "out", base=tmp_path, workers=1)
    assert caught.value.code == "dataset-exists"
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.is_file()}


def test_two_ingests_of_one_dataset_at_a_time_are_refused(tmp_path, images, fake):
    images("a_1.png")

    def read(name):
        with pytest.raises(DatasetError) as caught:
            ingest(config(png_source()), tmp_path / "out", base=tmp_path, workers=1)
        assert caught.value.code == "ingest-running"
        yield visual(name)

    fake(read)
    assert ingest(config(png_source()), tmp_path / "out", base=tmp_path, workers=1)["used"] == 1


def test_a_source_that_does_not_exist_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match="source pngs") as caught:
        ingest(config(png_source()), tmp_path / "out", base=tmp_path, workers=1)
    assert caught.value.code == "path-missing"
    assert not (tmp_path / "out.partial").exists()


def test_the_audit_log_holds_and_is_anchored(tmp_path, images, fake):
    images("a_1.png")
    fake(lambda name: iter([visual(name)]))
    ingest(config(png_source()), tmp_path / "out", base=tmp_path, workers=1)
    data = Dataset.open(tmp_path / "out")
    assert audit.verify(data.path / "audit.jsonl", anchor=data.info["audit_head"]) == 6
    assert data.verify() == 4


def test_the_config_in_the_dataset_names_no_place(tmp_path, images, fake):
    images("a_1.png", folder="archive of Zyxwv")
    fake(lambda name: iter([visual(name)]))
    ingest(config(png_source(path="archive of Zyxwv")), tmp_path / "out", base=tmp_path, workers=1)
    assert "Zyxwv" not in (tmp_path / "out" / "dataset.json").read_text()


def test_configs_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="own name"):
        config(png_source(), png_source())
    with pytest.raises(ValueError, match="below 1"):
        config(png_source(), split={"val": 0.5, "test": 0.5})
    with pytest.raises(ValueError, match="Extra inputs"):
        config(png_source(), splits={})
    with pytest.raises(ValueError, match="Input tag"):
        config({"kind": "telepathy", "name": "x", "path": "y"})


@pytest.mark.parametrize("path", sorted((REPO / "configs" / "ingest").glob("*.yaml")),
                         ids=lambda path: path.stem)  # fmt: skip
def test_shipped_configs_load(path):
    tree = yaml.safe_load(path.read_text())
    assert len(IngestConfig.model_validate(tree).sources) >= 1


def test_the_config_module_loads_neither_torch_nor_pydicom():
    code = "import sys, data_connectors.config as c; print({'torch', 'pydicom', 'numpy', 'av'} & set(sys.modules))"  # noqa: E501
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# From here on the real connectors read.


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path, images):
    images(*(f"p{i:02d}_{k}.png" for i in range(12) for k in range(2)))
    (tmp_path / "images" / "broken_1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "key").write_text("cd" * 32)
    asked = config(png_source(), deid={"key_file": "key"}, shard_mb=1)
    made = []
    for workers in (1, 3):
        out = tmp_path / f"out{workers}"
        summary = ingest(asked, out, base=tmp_path, workers=workers)
        assert (summary["found"], summary["quarantined"]) == (25, 1)
        made.append(parts(out))
    assert made[0] == made[1]


def test_a_killed_ingest_resumes_to_the_same_dataset(tmp_path, images):
    count = 250
    images(*(f"p{i:03d}_1.png" for i in range(count)))
    (tmp_path / "key").write_text("ef" * 32)
    (tmp_path / "ingest.yaml").write_text(
        yaml.safe_dump({"sources": [png_source()], "deid": {"key_file": "key"}})
    )

    def start(out: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "medvlp.cli", "ingest", "--config", tmp_path / "ingest.yaml",
             "--out", tmp_path / out, "--workers", "2"],
            cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    killed = start("out")
    journal = tmp_path / "out.partial" / "journal"
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 20):
        assert killed.poll() is None, "the ingest ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "out").exists()
    done = journal.read_bytes().count(b"\n")
    assert 20 <= done < count

    resumed = start("out")
    summary = json.loads(resumed.communicate(timeout=200)[0])
    assert summary["used"] == count
    told = [json.loads(line) for line in (tmp_path / "out/audit.jsonl").read_text().splitlines()]
    assert [entry["facts"] for entry in told if entry["action"] == "units-read"] == [
        {"read": count - done, "resumed": done}
    ]
    whole = ingest(
        config(png_source(), deid={"key_file": "key"}), tmp_path / "whole", base=tmp_path,
        workers=1,
    )  # fmt: skip
    assert whole["digest"] == summary["digest"]
    assert parts(tmp_path / "whole") == parts(tmp_path / "out")


def test_nothing_is_imported_that_a_worker_does_not_need():
    code = "import sys, data_connectors.ingest.reading; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_a_reader_that_runs_out_of_memory_is_named(tmp_path, images, fake):
    """While it reads, and while what it read is stored."""
    images("a_1.png", "b_1.png", "c_1.png")

    class Greedy:
        def __iter__(self):
            raise MemoryError

    def greedy(name):
        if name == "a_1.png":
            raise MemoryError
        found = visual(name)
        if name == "b_1.png":
            object.__setattr__(found.payload, "members", Greedy())
        yield found

    fake(greedy)
    summary = ingest(config(png_source()), tmp_path / "out", base=tmp_path, workers=1)
    assert summary["by_reason"] == {"reader-out-of-memory": 2}
    assert summary["used"] == 1
