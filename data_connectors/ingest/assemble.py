"""From what was read to the rows: pseudonyms, links, splits, clean texts, findings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations, pairwise

from data_connectors.config import IngestConfig
from data_connectors.deid.pseudonyms import Pseudonyms
from data_connectors.deid.scrub import Scrubber, protected_words
from data_connectors.ingest.linking import Links, link
from data_connectors.ingest.persons import qualify
from data_connectors.ingest.records import Stored, UnitRecord
from data_connectors.ingest.splits import assign_splits
from data_connectors.items import Identity, Refused, Region, ReportItem
from medvlp.knowledge.findings import extract_findings, report_findings
from medvlp.types import Finding, Geometry, Report, Sample, Split, Text

FOUND_IN = ("document", "findings", "impression", "sentence", "caption")
"""Levels of text that state radiological findings; narration is not searched for them."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """What one unit of one source gave."""

    source: str
    order: int
    """Number of the source in the config."""
    unit: str
    record: UnitRecord


@dataclass(slots=True, eq=False)
class Assembled:
    """The rows of the tables, and what to tell about how they came to be."""

    samples: list[Sample] = field(default_factory=list)
    regions: list[tuple[str, Region]] = field(default_factory=list)
    refused: list[tuple[str, Refused]] = field(default_factory=list)
    """(name of the source, refusal)."""
    links: dict[str, int] = field(default_factory=dict)
    scrubbed: int = 0
    """Stretches of text that were replaced."""
    shared_pixels: int = 0
    """Pairs of patients kept in one split because they share pixels."""
    empty_spans: int = 0
    """Clips of lectures without a stored frame."""


def assemble(entries: Sequence[Entry], config: IngestConfig, names: Pseudonyms) -> Assembled:
    """Make the rows, in the order of the units.

    Args:
        entries: Everything that was read; visuals of one patient with the same pixels occur once.
        config: The ingest config.
        names: Makes the pseudonyms.
    """
    records = qualify([entry.record for entry in entries])
    known = [replace(entry, record=record) for entry, record in zip(entries, records, strict=True)]
    return _Assembly(known, config, names).run()


class _Assembly:
    """The state of one assembly; `run` is the whole story."""

    def __init__(self, entries: Sequence[Entry], config: IngestConfig, names: Pseudonyms) -> None:
        self.entries = entries
        self.config = config
        self.names = names
        self.out = Assembled()
        self.visuals = [visual for entry in entries for visual in entry.record.visuals]
        self.reports = [report for entry in entries for report in entry.record.reports]

    def run(self) -> Assembled:
        links = link(self.visuals, self.reports, self.config.link.by)
        self.out.links = links.counts
        self.scrubbers = self._scrubbers()
        self.splits = self._splits()
        self.clean = [self._clean_report(item) for item in self.reports]
        linked = {number for numbers in links.of_visual.values() for number in numbers}
        first_visual = first_report = 0
        for entry in self.entries:
            for number, visual in enumerate(entry.record.visuals, first_visual):
                self._visual(visual, links, number, entry.source)
            for number, report in enumerate(entry.record.reports, first_report):
                if number not in linked:
                    self._lone_report(report, number, number - first_report, entry)
            self.out.refused += [(entry.source, refused) for refused in entry.record.refused]
            first_visual += len(entry.record.visuals)
            first_report += len(entry.record.reports)
        return self.out

    def _scrubbers(self) -> dict[str, Scrubber]:
        """One a patient, who may be named in the files of any of the sources."""
        if not self.config.deid.scrub_texts:
            return {}
        known: dict[str, set[str]] = defaultdict(set)
        for item in (item for entry in self.entries for item in entry.record.items):
            identity = item.identity
            known[_patient(identity)].update(
                identity.phi, (identity.patient, identity.study, identity.accession)
            )
        protected, generic = protected_words(), self.config.deid.scrub_generic
        return {
            patient: Scrubber(phi, protected=protected, generic=generic)
            for patient, phi in known.items()
        }

    def _splits(self) -> dict[str, Split]:
        """By pseudonym; a patient belongs to the first source it occurs in."""
        group_of: dict[str, int] = {}
        owners: dict[str, set[str]] = defaultdict(set)
        for entry in self.entries:
            for item in entry.record.items:
                patient = self.names.patient(item.identity.patient)
                group_of[patient] = min(group_of.get(patient, entry.order), entry.order)
                if not isinstance(item, ReportItem):
                    owners[item.digest].add(patient)
        together = sorted(
            {
                pair
                for group in owners.values()
                if len(group) > 1
                for pair in pairwise(sorted(group))
            }
        )
        self.out.shared_pixels = sum(
            len(list(combinations(group, 2))) for group in owners.values() if len(group) > 1
        )
        split = self.config.split
        return assign_splits(
            group_of, together=together, seed=split.seed, val=split.val, test=split.test
        )

    def _clean_report(self, item: ReportItem) -> tuple[Report, tuple[Finding, ...]]:
        report = item.report
        if self.scrubbers:
            report, count = self.scrubbers[_patient(item.identity)].report(report)
            self.out.scrubbed += count
        return report, report_findings(report)

    def _clean_texts(self, identity: Identity, texts: tuple[Text, ...]) -> tuple[Text, ...]:
        if not self.scrubbers:
            return texts
        clean = []
        for text in texts:
            scrubbed = self.scrubbers[_patient(identity)].scrub(text.text)
            self.out.scrubbed += scrubbed.count
            clean.append(replace(text, text=scrubbed.text) if scrubbed.count else text)
        return tuple(clean)

    def _visual(self, visual: Stored, links: Links, number: int, source: str) -> None:
        item = visual.item
        patient = self.names.patient(item.identity.patient)
        texts = self._clean_texts(item.identity, item.texts)
        findings = _union(item.findings, _of_texts(texts))
        for rank, report in enumerate(links.of_visual.get(number, ())):
            clean, stated = self.clean[report]
            texts += report_texts(clean, self.reports[report].source)
            # Places are places in the first report; other texts have none to tell.
            findings = (
                _union(findings, _placeless(stated))
                if rank
                else _union(stated, _placeless(findings))
            )
        sample = Sample(
            key=visual.key, patient=patient, study=self.names.study(_study(item.identity)),
            split=self.splits[patient], kind=item.kind, modality=item.modality, texts=texts,
            findings=findings, labels=item.labels, geometry=item.geometry, licence=item.licence,
            provenance=source, shard=visual.shard, offset=visual.offset, size=visual.size,
            flags=item.flags,
        )  # fmt: skip
        self.out.samples.append(sample)
        self.out.regions += [(visual.key, region) for region in item.regions]
        self.out.samples += self._clips(sample, visual)

    def _clips(self, lecture: Sample, visual: Stored) -> Iterator[Sample]:
        """The clips of a lecture: byte ranges of its own frames."""
        keys = [
            self.names.part("clip", visual.key, number, span.level, span.start_s, span.end_s)
            for number, span in enumerate(visual.item.spans)
        ]
        alive = set()
        for key, span in zip(keys, visual.item.spans, strict=True):
            inside = frames_between(visual, span.start_s, span.end_s)
            if inside is None:
                self.out.empty_spans += 1
                continue
            start, end, count = inside
            alive.add(key)
            above = lecture.key if span.parent is None else keys[span.parent]
            shape = lecture.geometry.shape
            yield replace(
                lecture, key=key, texts=self._clean_texts(visual.item.identity, span.texts),
                findings=(), labels=span.labels,
                parent=above if above in alive else lecture.key,
                geometry=replace(
                    lecture.geometry, start_s=span.start_s, end_s=span.end_s,
                    shape=None if shape is None else (count, *shape[1:]),
                ),
                offset=lecture.offset + start, size=end - start,
            )  # fmt: skip

    def _lone_report(self, item: ReportItem, number: int, place: int, entry: Entry) -> None:
        report, findings = self.clean[number]
        patient = self.names.patient(item.identity.patient)
        self.out.samples.append(Sample(
            key=self.names.part("report", entry.source, entry.unit, place), patient=patient,
            study=self.names.study(_study(item.identity)), split=self.splits[patient],
            kind="text", modality="", texts=report_texts(report, item.source),
            findings=findings, geometry=Geometry(), licence=item.licence,
            provenance=entry.source,
        ))  # fmt: skip


def report_texts(report: Report, source: str) -> tuple[Text, ...]:
    """A report at every level: whole, findings, impression, each sentence."""
    texts = [Text("document", source, report.text)]
    for level in ("findings", "impression"):
        if section := report.section(level):
            texts.append(Text(level, source, section))
    texts += [Text("sentence", source, s.text) for s in report.sentences if s.text.strip()]
    return tuple(texts)


def frames_between(visual: Stored, start_s: float, end_s: float) -> tuple[int, int, int] | None:
    """(first byte, end byte, number) of the frames with start_s <= time < end_s, in the payload."""
    begin = round(start_s * 1000)
    stop = round(end_s * 1000)
    times = [int(extension.split(".")[0]) for extension, _ in visual.marks]
    inside = [i for i, time in enumerate(times) if begin <= time < stop]
    if not inside:
        return None
    last = inside[-1] + 1
    end = visual.marks[last][1] if last < len(times) else visual.size
    return visual.marks[inside[0]][1], end, len(inside)


def _of_texts(texts: tuple[Text, ...]) -> tuple[Finding, ...]:
    """Findings of captions; places in a text only for the first that states them."""
    found: tuple[Finding, ...] = ()
    for number, text in enumerate(text for text in texts if text.level in FOUND_IN):
        stated = _findings(text.text)
        found = _union(found, _placeless(stated) if number else stated)
    return found


def _placeless(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return tuple(replace(finding, start=-1, end=-1) for finding in findings)


def _union(first: tuple[Finding, ...], more: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """All of the first, and of the others what is not said yet."""
    said = {(finding.concept, finding.polarity, finding.side) for finding in first}
    return first + tuple(f for f in more if (f.concept, f.polarity, f.side) not in said)


@lru_cache(maxsize=50_000)
def _findings(text: str) -> tuple[Finding, ...]:
    return extract_findings(text)


def _patient(identity: Identity) -> str:
    return identity.patient.strip().upper()


def _study(identity: Identity) -> str:
    return identity.study.strip() or identity.accession.strip()
