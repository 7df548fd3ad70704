from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_connectors.items import Item, Refused, VisualItem
from data_connectors.source import Unit
from data_connectors.video.reader import find, read
from data_connectors.video.source import LecturesSource
from medvlp.errors import ConfigError

Writer = Callable[..., Path]
TIMES = [k / 10 for k in range(200)]
POCUS = {
    "format": "clips", "fps": 4, "table": "metadata.csv",
    "columns": {
        "file": "Filename", "label": "Label", "patient": "Patient ID / Name",
        "licence": "License",
        "texts": ["Comments from web site", "Comments first medical doctor (MD1)", "MD2", "MD3"],
    },
    "label_map": {
        "regular": "normal", "COVID-19": "covid_19", "Viral pneumonia": "viral_pneumonia",
        "Bacterial pneumonia": "bacterial_pneumonia",
    },
}  # fmt: skip


def source(path: Path, **keys: object) -> LecturesSource:
    return LecturesSource.model_validate({"name": "theatre", "path": path, "licence": "L", **keys})


def everything(config: LecturesSource) -> tuple[list[VisualItem], list[Refused]]:
    """All items, having checked that every file is in exactly one of them."""
    items: list[Item] = []
    for found in find(config):
        items += [found] if isinstance(found, Refused) else read_unit(config, found)
    counted = Counter(name for item in items for name in item.inputs)
    files = {p.relative_to(config.path).as_posix() for p in config.path.rglob("*") if p.is_file()}
    assert set(counted) == files - {config.table}
    assert set(counted.values()) <= {1}
    return (
        [i for i in items if isinstance(i, VisualItem)],
        [i for i in items if isinstance(i, Refused)],
    )


def read_unit(config: LecturesSource, unit: Unit) -> list[Item]:
    items = list(read(config, unit))
    assert sorted(name for item in items for name in item.inputs) == sorted(unit.inputs)
    return items


def write_lecture(folder: Path, video: Writer) -> Path:
    folder.mkdir(parents=True)
    video(folder / "video.mp4", TIMES)
    whisper = {"segments": [{"start": 1.0, "end": 3.0, "text": " we look"}]}
    (folder / "whisper.json").write_text(json.dumps(whisper))
    (folder / "captions.srt").write_text("1\n00:00:01,000 --> 00:00:03,000\nwe look\n")
    item = {"type": "pronunciation", "start_time": "1.0", "end_time": "2.5",
            "alternatives": [{"content": "look"}]}  # fmt: skip
    (folder / "aws.json").write_text(json.dumps({"results": {"items": [item]}}))
    (folder / "keysteps.csv").write_text(
        "start,end,phase,step,text\n0,8,access,look,The abdomen is explored.\n"
        "8,12,out_of_body,,\n12,30,dissection,cut,The duct is cut.\n"
    )
    (folder / "abstract.txt").write_text("A gallbladder is removed.\n")
    return folder


@pytest.fixture
def lecture(tmp_path: Path, video: Writer) -> Path:
    return write_lecture(tmp_path / "lectures" / "op 7", video)


def test_a_lecture_becomes_one_item_with_its_frames_texts_and_spans(lecture: Path) -> None:
    (item,), refusals = everything(source(lecture.parent, fps=2.0, long_side=80))
    assert not refusals
    assert (item.kind, item.modality, item.licence) == ("clip", "ES", "L")
    assert item.identity.patient == "op 7"
    names = [name for name, _ in item.payload.members]
    assert names == [f"{500 * k:010d}.jpg" for k in range(40)]
    with Image.open(io.BytesIO(item.payload.members[-1][1])) as image:
        assert (image.format, image.size) == ("JPEG", (80, 32))
    assert item.geometry.shape == (40, 32, 80)
    assert (item.geometry.start_s, item.geometry.fps) == (0.0, 2.0)
    assert item.geometry.end_s == pytest.approx(19.94, abs=0.001)  # the last one lasts 40 ms
    assert [(t.level, t.text) for t in item.texts] == [("video", "A gallbladder is removed.")]
    levels = Counter(s.level for s in item.spans)
    assert levels == {"phase": 3, "step": 2, "task": 1}
    task = item.spans[-1]
    assert [t.source for t in task.texts] == ["aws", "whisper"]  # the captions are Whisper's
    assert max(s.end_s for s in item.spans) <= item.geometry.end_s


def test_reading_again_gives_the_same_bytes(lecture: Path) -> None:
    config = source(lecture.parent)
    (unit,) = find(config)
    assert isinstance(unit, Unit)
    first, again = (next(iter(read(config, unit))) for _ in range(2))
    assert isinstance(first, VisualItem)
    assert isinstance(again, VisualItem)
    assert first.digest == again.digest
    assert first.payload.members == again.payload.members
    assert first.spans == again.spans
    assert list(find(config)) == [unit]


def test_the_unit_id_follows_the_content_and_hides_the_name(lecture: Path) -> None:
    config = source(lecture.parent)
    (before,) = find(config)
    (lecture / "abstract.txt").write_text("A gallbladder is REMOVED.\n")  # of the same size
    (after,) = find(config)
    assert isinstance(before, Unit)
    assert isinstance(after, Unit)
    assert before.id != after.id
    assert "op" not in before.id


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("captions.srt", "1\n00:00:03,000 --> 00:00:01,000\nx\n", "transcript-time-order"),
        ("whisper.json", "{", "transcript-not-parseable"),
        ("aws.json", "{}", "transcript-not-parseable"),
        ("keysteps.csv", "start,end\n5,1\n", "keysteps-not-parseable"),
        ("abstract.txt", " ", "abstract-not-parseable"),
        ("notes.docx", "x", "lecture-file-unknown"),
    ],
)
def test_one_bad_text_is_refused_and_the_lecture_goes_on(
    lecture: Path, name: str, content: str, code: str
) -> None:
    (lecture / name).write_text(content)
    (item,), (refusal,) = everything(source(lecture.parent))
    assert refusal.code == code
    assert refusal.inputs == (f"op 7/{name}",)
    assert refusal.next_step
    assert "op 7" not in refusal.reason
    assert len(item.payload.members) == 20


def test_a_lecture_with_a_bad_video_is_refused_and_the_others_go_on(
    tmp_path: Path, video: Writer, lecture: Path, sound_only: Path
) -> None:
    root = lecture.parent
    shutil.copytree(lecture, root / "cut")
    data = (lecture / "video.mp4").read_bytes()
    (root / "cut" / "video.mp4").write_bytes(data[: len(data) // 2])
    (root / "silent").mkdir()
    shutil.move(sound_only, root / "silent" / "video.mp4")
    (root / "texts only").mkdir()
    (root / "texts only" / "abstract.txt").write_text("x")
    shutil.copytree(lecture, root / "two")
    shutil.copy(lecture / "video.mp4", root / "two" / "part2.mp4")
    (root / "readme.md").write_text("x")
    items, refusals = everything(source(root))
    assert [i.identity.patient for i in items] == ["op 7"]
    assert sorted((r.inputs[0].split("/")[0], r.code) for r in refusals) == [
        ("cut", "video-truncated"),
        ("readme.md", "lecture-file-unknown"),
        ("silent", "video-no-stream"),
        ("texts only", "video-missing"),
        ("two", "video-several"),
    ]


def test_a_video_of_which_too_little_is_left_is_refused(tmp_path: Path, video: Writer) -> None:
    folder = tmp_path / "lectures" / "op"
    folder.mkdir(parents=True)
    whole = video(tmp_path / "v.mp4", TIMES, options={"movflags": "faststart"}).read_bytes()
    (folder / "video.mp4").write_bytes(whole[: int(0.6 * len(whole))])
    _, (refusal,) = everything(source(folder.parent))
    assert refusal.code == "video-truncated"
    assert "% readable" in refusal.reason
    (item,), _ = everything(source(folder.parent, min_decodable=0.3))
    assert 5 <= len(item.payload.members) < 18
    assert item.geometry.end_s is not None
    assert item.geometry.end_s < 18


def test_the_patient_pattern_joins_operations_of_one_patient(tmp_path: Path, video: Writer) -> None:
    for name in ("P12_op1", "P12_op2", "other"):
        (tmp_path / name).mkdir()
        video(tmp_path / name / "video.mp4", TIMES[:10])
    items, _ = everything(source(tmp_path, patient_pattern=r"^(P\d+)_"))
    assert [i.identity.patient for i in items] == ["P12", "P12", "other"]
    assert [i.identity.study for i in items] == ["P12_op1", "P12_op2", "other"]


def test_surgvlp_lectures_without_videos_are_refused_with_a_next_step(shared_data: Path) -> None:
    items, refusals = everything(source(shared_data / "surg_transcripts", format="svl"))
    assert not items
    assert [(r.code, len(r.inputs)) for r in refusals] == [
        ("video-missing", 2), ("video-missing", 4), ("video-missing", 3),
    ]  # fmt: skip
    assert all(r.next_step for r in refusals)


def test_surgvlp_lectures_with_their_video_are_read(
    tmp_path: Path, video: Writer, shared_data: Path
) -> None:
    root = tmp_path / "svl"
    shutil.copytree(shared_data / "surg_transcripts", root, copy_function=shutil.copyfile)
    for folder in (root, *root.iterdir()):
        folder.chmod(0o755)
    (root / "videos").mkdir()
    video(root / "videos" / "vd01en1354e.mp4", [float(k) for k in range(411)])
    (item,), refusals = everything(source(root, format="svl"))
    assert len(refusals) == 2
    assert item.identity.patient == "vd01en1354e"
    assert Counter(s.level for s in item.spans) == {"phase": 7, "task": 16}
    assert item.texts[0].text.startswith("Video tag")


def test_cholect50_frames_sit_at_their_times(shared_data: Path) -> None:
    (item,), refusals = everything(source(shared_data / "surg_cholect50_vid75", format="cholect50"))
    assert not refusals
    assert item.identity.patient == "VID75"
    assert item.payload.members[0][0] == "0000013000.jpg"
    assert item.payload.members[-1][0] == "0001892000.jpg"
    assert item.geometry.shape == (24, 143, 256)
    assert item.geometry.end_s == 1918.0
    phases = [s for s in item.spans if s.level == "phase"]
    assert [(s.labels[0].removeprefix("phase:"), s.start_s, s.end_s) for s in phases] == [
        ("preparation", 13, 122),
        ("calot_triangle_dissection", 187, 495),
        ("clipping_and_cutting", 505, 559),
        ("gallbladder_dissection", 589, 1694),
        ("gallbladder_packaging", 1775, 1882),
        ("gallbladder_extraction", 1892, 1918),
    ]
    tasks = {s.start_s: s for s in item.spans if s.level == "task"}
    assert len(tasks) == 24
    assert [t.text for t in tasks[13.0].texts] == ["the grasper retracts the gallbladder"]
    assert [t.text for t in tasks[549.0].texts] == ["the scissors are in view and idle"]
    assert tasks[1824.0].labels == (
        "triplet:grasper,grasp,specimen_bag", "triplet:grasper,pack,gallbladder",
    )  # fmt: skip
    assert all(s.end_s == s.start_s + 1 for s in tasks.values())
    assert item.spans[tasks[549.0].parent or 0].labels == ("phase:clipping_and_cutting",)
    own = source(shared_data / "surg_cholect50_vid75", format="cholect50", licence="")
    assert "CC BY-NC-SA" in everything(own)[0][0].licence


@pytest.fixture
def operation(tmp_path: Path) -> Path:
    """Two operations in the published layout, at 1 frame a second."""
    categories = {
        "phase": {"0": "preparation", "1": "carlot-triangle-dissection"},
        "triplet": {"17": "grasper,retract,gallbladder", "94": "grasper,null_verb,null_target"},
    }
    root = tmp_path / "cholect50"
    (root / "labels").mkdir(parents=True)
    for name in ("VID01", "VID02"):
        (root / "videos" / name).mkdir(parents=True)
        rows = {}
        for k in range(10):
            array = np.full((40, 60, 3), 20 * k, np.uint8)
            Image.fromarray(array).save(root / "videos" / name / f"{k:06}.png")
            rows[str(k)] = [
                [17 if k < 8 else -1, 0, 1.0, *[0.1] * 4, 1, 0, 1.0, *[-1.0] * 4, k // 5]
            ]
        tree = {"fps": 1, "categories": categories, "annotations": rows}
        (root / "labels" / f"{name}.json").write_text(json.dumps(tree))
    return root


def test_published_cholect50_layout_is_read_one_lecture_an_operation(operation: Path) -> None:
    items, refusals = everything(source(operation, format="cholect50"))
    assert not refusals
    assert [i.identity.patient for i in items] == ["VID01", "VID02"]
    assert [(s.level, s.start_s, s.end_s) for s in items[0].spans[:2]] == [
        ("phase", 0, 5), ("phase", 5, 10),
    ]  # fmt: skip
    assert Counter(s.level for s in items[0].spans) == {"phase": 2, "task": 8}
    assert (
        len(everything(source(operation, format="cholect50", fps=0.5))[0][0].payload.members) == 5
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: tree.pop("fps"),
        lambda tree: tree["categories"].pop("phase"),
        lambda tree: tree["annotations"]["3"][0].pop(),
        lambda tree: tree["annotations"]["3"][0].__setitem__(14, 9),
        lambda tree: tree["annotations"].__setitem__("x", []),
    ],
)
def test_annotations_that_changed_are_refused_by_name(
    operation: Path, damage: Callable[[dict[str, object]], object]
) -> None:
    path = operation / "labels" / "VID01.json"
    tree = json.loads(path.read_text())
    damage(tree)
    path.write_text(json.dumps(tree))
    items, (refusal,) = everything(source(operation, format="cholect50"))
    assert [i.identity.patient for i in items] == ["VID02"]
    assert refusal.code == "annotation-not-parseable"


def test_a_broken_frame_is_refused_and_the_operation_goes_on(operation: Path) -> None:
    (operation / "videos" / "VID02" / "000004.png").write_bytes(b"\x89PNG broken")
    (operation / "labels" / "VID03.json").write_text("{}")
    items, refusals = everything(source(operation, format="cholect50"))
    assert [len(i.payload.members) for i in items] == [10, 9]
    assert sorted(r.code for r in refusals) == ["image-not-decodable", "video-missing"]


def test_real_ultrasound_clips_come_with_comments_labels_and_patients(shared_data: Path) -> None:
    items, refusals = everything(source(shared_data / "us_pocus", **POCUS))
    assert not refusals
    assert Counter(i.kind for i in items) == {"clip": 18, "image": 8}
    assert {i.modality for i in items} == {"US"}
    assert Counter(i.labels for i in items) == {
        ("normal",): 12, ("covid_19",): 8, ("viral_pneumonia",): 4, ("bacterial_pneumonia",): 2,
    }  # fmt: skip
    assert {i.licence for i in items} == {"CC BY 4.0", "CC BY 2.0"}
    by_name = {i.identity.study: i for i in items}
    assert by_name["Reg_pat1Image_132943"].identity.patient == "4.0"
    pneumonia = by_name["Pneu_prospective_file3"]
    assert [(t.level, t.source) for t in pneumonia.texts] == [
        ("caption", "comments_from_web_site"), ("caption", "md2"),
    ]  # fmt: skip
    assert pneumonia.texts[1].text == "Consolidation, I also see some A-lines"
    assert by_name["Pneu_emdocs_1"].texts == ()
    for item in items:
        stamps = [int(name.removesuffix(".jpg")) for name, _ in item.payload.members
                  if item.kind == "clip"]  # fmt: skip
        assert all(b - a == 250 for a, b in pairwise(stamps))
        assert [name for name, _ in item.payload.members if item.kind == "image"] in ([], ["png"])
    assert len({i.digest for i in items}) == 26


@pytest.fixture
def clips(tmp_path: Path, video: Writer) -> Path:
    root = tmp_path / "clips"
    root.mkdir()
    video(root / "a.gif", [0, 0.5, 1.0], codec="gif")
    video(root / "b.mp4", TIMES[:20])
    Image.fromarray(np.full((50, 40), 99, np.uint8)).save(root / "c.jpg")
    (root / "table.csv").write_text(
        "file,who,label,said\na,P1,x,one\nb.mp4,P1,y,n/a\nc,P2,,three\ngone,P3,,\n"
    )
    return root


CLIPS = {
    "format": "clips", "table": "table.csv",
    "columns": {"texts": ["said"], "label": "label", "patient": "who"},
}  # fmt: skip


def test_gifs_videos_and_pictures_share_one_table(clips: Path) -> None:
    items, refusals = everything(source(clips, fps=2.0, **CLIPS))
    assert not refusals
    assert [(i.kind, i.identity.patient, i.labels) for i in items] == [
        ("clip", "P1", ("x",)), ("clip", "P1", ("y",)), ("image", "P2", ()),
    ]  # fmt: skip
    assert [[t.text for t in i.texts] for i in items] == [["one"], [], ["three"]]
    assert [name for name, _ in items[0].payload.members][:3] == [
        "0000000000.jpg", "0000000500.jpg", "0000001000.jpg",
    ]  # fmt: skip
    assert items[2].geometry.shape == (50, 40)


@pytest.mark.parametrize(
    ("table", "code"),
    [
        ("file,who,label,said\nb,P1,,\nc,P2,,\n", "clip-not-in-table"),
        ("file,who,label,said\na,P1,,\na,P2,,\nb,P1,,\nc,P2,,\n", "clip-ambiguous"),
        ("file,who,label,said\na,,,\nb,P1,,\nc,P2,,\n", "patient-id-missing"),
        ("file,who,label,said\na,P1,zebra,\nb,P1,,\nc,P2,,\n", "label-unknown"),
    ],
)
def test_a_clip_that_the_table_does_not_settle_is_refused(
    clips: Path, table: str, code: str
) -> None:
    (clips / "table.csv").write_text(table)
    config = source(clips, label_map={"horse": "normal"}, **CLIPS)
    items, (refusal,) = everything(config)
    assert (refusal.code, refusal.inputs) == (code, ("a.gif",))
    assert len(items) == 2


def test_a_table_without_its_columns_stops_the_source(clips: Path) -> None:
    (clips / "table.csv").write_text("name,who\na,P1\n")
    with pytest.raises(ConfigError, match="columns missing: file, said, label"):
        list(find(source(clips, **CLIPS)))
    (clips / "table.csv").unlink()
    with pytest.raises(ConfigError, match="table-missing"):
        list(find(source(clips, **CLIPS)))


def test_still_pictures_lose_their_metadata(clips: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe 1950-01-01"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(clips / "c.jpg", exif=exif)
    assert b"Jane" in (clips / "c.jpg").read_bytes()
    items, _ = everything(source(clips, **CLIPS))
    assert b"Jane" not in items[2].payload.members[0][1]


def test_a_missing_folder_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="path-missing"):
        list(find(source(tmp_path / "nowhere")))
