"""What ingest holds back comes in once a person has released it, and only then."""

from __future__ import annotations

from pathlib import Path

from dicom_phantoms import write_series
from pydicom.dataset import Dataset

from medml.catalogue.config import IngestConfig
from medml.catalogue.ingest import ingest
from medml.catalogue.quarantine import Quarantine
from medml.io.files import Pseudonyms
from medml.records.home import Home
from medml.records.ingest import IngestReport
from medml.store.catalogue import Catalogue
from medml.store.crosswalk import Crosswalk
from medml.store.database import open_database


def run(source: Path, home: Home) -> IngestReport:
    return ingest(
        [source],
        home,
        Catalogue(open_database(home.catalogue_url)),
        Crosswalk(home.crosswalk_url),
        Pseudonyms(home.key_file),
        IngestConfig(isolated=False),
    )


def mark(data: Dataset, index: int) -> None:
    data.BurnedInAnnotation = "YES"


def test_ingest_takes_what_was_released(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    paths = write_series(tmp_path / "in", edit=mark)
    first = run(tmp_path / "in", home)
    quarantine = Quarantine(home.quarantine)
    (held,) = quarantine.waiting()
    assert first.codes == {"refused burned_in_annotation": 4}
    assert f"medml release {held.id}" in first.outcomes[0].reason
    assert len(held.files) == 4
    assert run(tmp_path / "in", home).codes == first.codes
    assert len(quarantine.waiting()) == 1
    quarantine.release([held.id], by="A. Reader")
    paths[0].write_bytes(paths[0].read_bytes() + b"\0\0")
    assert "refused burned_in_annotation" in run(tmp_path / "in", home).codes
    paths[0].write_bytes(paths[0].read_bytes()[:-2])
    assert run(tmp_path / "in", home).codes == {"accepted accepted": 4}
