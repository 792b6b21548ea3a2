from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable

import pytest
from sqlalchemy import text

from medml.errors import ConfigError
from medml.records.scan import Annotation, Scan
from medml.store.catalogue import Catalogue, Collection
from medml.store.database import Database, open_database

MakeScan = Callable[..., Scan]
MakeAnnotation = Callable[..., Annotation]


def test_what_was_added_comes_back_equal(
    database: Database, make_scan: MakeScan, make_annotation: MakeAnnotation
) -> None:
    scan = make_scan(1, columns={"sex": "F", "age": 61, "dose": 1.5, "site": None})
    annotation = make_annotation(scan)
    catalogue = Catalogue(database)
    catalogue.add([scan], [annotation])
    assert catalogue.scans() == [scan]
    assert catalogue.annotations([scan.scan_id, "absent"]) == [annotation]
    assert catalogue.known([scan.scan_id, "absent"]) == {scan.scan_id}


def test_adding_the_same_again_changes_nothing(
    database: Database, make_scan: MakeScan, make_annotation: MakeAnnotation
) -> None:
    catalogue = Catalogue(database)
    catalogue.add([make_scan(1)], [make_annotation(make_scan(1))])
    before = _rows(database)
    catalogue.add([make_scan(1), make_scan(1)], [make_annotation(make_scan(1))])
    assert _rows(database) == before


def test_new_content_replaces_the_annotation_of_the_same_origin(
    database: Database, make_scan: MakeScan, make_annotation: MakeAnnotation
) -> None:
    scan, catalogue = make_scan(1), Catalogue(database)
    first, other = make_annotation(scan), make_annotation(scan, origin="reader 2")
    second = make_annotation(scan, classes=(0,), content="d" * 64)
    catalogue.add([scan], [first, other])
    catalogue.add([scan], [second])
    assert catalogue.annotations([scan.scan_id]) == [second, other]
    with database.reading() as connection:
        revisions = connection.execute(text("SELECT origin, revision FROM annotations ORDER BY origin")).all()
    assert [tuple(row) for row in revisions] == [("csv", 2), ("reader 2", 1)]


def test_scan_with_new_columns_replaces_the_old_row(database: Database, make_scan: MakeScan) -> None:
    catalogue = Catalogue(database)
    catalogue.add([make_scan(1)])
    catalogue.add([make_scan(1, columns={"sex": "M"}, modality="CT")])
    assert catalogue.scans(modality="CT", sex="M") == [make_scan(1, columns={"sex": "M"}, modality="CT")]


def test_annotation_of_an_unknown_scan_stops_the_whole_transaction(
    database: Database, make_scan: MakeScan, make_annotation: MakeAnnotation
) -> None:
    catalogue = Catalogue(database)
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        catalogue.add([make_scan(1)], [make_annotation(make_scan(2))])
    assert catalogue.scans() == []


@pytest.mark.parametrize(
    ("select", "numbers"),
    [
        ({}, [1, 2, 3]),
        ({"collection": "demo"}, [1, 2]),
        ({"patient": "p-2"}, [2]),
        ({"channel": "1"}, [3]),
        ({"sex": "F"}, [1]),
        ({"age": "61"}, [1, 3]),
        ({"age": 61.0, "collection": "other"}, [3]),
        ({"age": "sixty"}, []),
        ({"sex": "F", "collection": "other"}, []),
        ({"sex": None}, [3]),
    ],
)
def test_selection_by_fields_and_columns(
    database: Database, make_scan: MakeScan, select: dict[str, object], numbers: list[int]
) -> None:
    one = make_scan(1, columns={"sex": "F", "age": 61})
    two = make_scan(2, columns={"sex": "M", "age": 35})
    three = make_scan(3, collection="other", channel=1, columns={"age": 61})
    catalogue = Catalogue(database)
    catalogue.add([three, two, one])
    assert catalogue.scans(**select) == [{1: one, 2: two, 3: three}[n] for n in numbers]  # type: ignore[arg-type]


def test_what_scans_are_compared_by_is_that_of_the_scans(database: Database, make_scan: MakeScan) -> None:
    catalogue = Catalogue(database)
    catalogue.add([make_scan(2, quality={"snr": 3.5}, likeness="2:AAAA"), make_scan(1)])
    found = catalogue.compared()
    assert [scan.scan_id for scan in found] == [scan.scan_id for scan in catalogue.by_id(s.scan_id for s in found)]
    names = ("scan_id", "collection", "patient", "modality", "content", "quality", "likeness")
    wanted = {scan.scan_id: [getattr(scan, name) for name in names] for scan in catalogue.scans()}
    assert {scan.scan_id: [getattr(scan, name) for name in names] for scan in found} == wanted


def test_unknown_key_is_refused_with_those_that_exist(database: Database, make_scan: MakeScan) -> None:
    catalogue = Catalogue(database)
    catalogue.add([make_scan(1, columns={"sex": "F", "age": 61})])
    with pytest.raises(ConfigError, match=r"no column colour; .*collection, patient.* columns age, sex"):
        catalogue.scans(colour="red")


def test_channel_must_be_a_number(database: Database) -> None:
    with pytest.raises(ConfigError, match="channel is 'first'; expected a whole number"):
        Catalogue(database).scans(channel="first")


def test_collections_keep_their_licence_when_scans_arrive(database: Database, make_scan: MakeScan) -> None:
    catalogue = Catalogue(database)
    catalogue.add_collection("demo", licence="CC-BY-4.0", consent="waiver")
    catalogue.add([make_scan(1), make_scan(2), make_scan(3, collection="other")])
    catalogue.add_collection("demo", licence="CC-BY-SA-4.0")
    assert catalogue.collections() == [
        Collection(name="demo", licence="CC-BY-SA-4.0", consent="waiver", scans=2),
        Collection(name="other", scans=1),
    ]


def test_four_processes_add_the_same_scans_at_once(any_url: str, make_scan: MakeScan) -> None:
    open_database(any_url).close()
    scans = [make_scan(number) for number in range(300)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(_add_in_turns, [(any_url, scans, worker) for worker in range(4)])
    database = open_database(any_url)
    assert Catalogue(database).collections() == [Collection(name="demo", scans=300)]
    database.close()


def _add_in_turns(url: str, scans: list[Scan], worker: int) -> None:
    catalogue = Catalogue(open_database(url))
    for start in range(0, len(scans), 30):
        part = scans[start : start + 30]
        catalogue.add(part[::-1] if worker % 2 else part)


def test_many_scans_go_in_and_out_in_seconds(url: str, make_scan: MakeScan, make_annotation: MakeAnnotation) -> None:
    template = make_scan(1)
    scans = [template.model_copy(update={"scan_id": f"{n:024x}", "content": f"{n:064x}"}) for n in range(10_000)]
    annotations = [make_annotation(template).model_copy(update={"scan_id": scan.scan_id}) for scan in scans]
    catalogue = Catalogue(open_database(url))
    began = time.monotonic()
    catalogue.add(scans, annotations)
    assert len(catalogue.known(scan.scan_id for scan in scans)) == 10_000
    assert len(catalogue.annotations(scan.scan_id for scan in catalogue.scans(collection="demo"))) == 10_000
    assert time.monotonic() - began < 15  # about 1.5 s on two idle cores


def _rows(database: Database) -> list[tuple[object, ...]]:
    with database.reading() as connection:
        tables = ("collections", "scans", "annotations")
        return [tuple(row) for table in tables for row in connection.execute(text(f"SELECT * FROM {table}"))]
