from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from medml.errors import Refusal
from medml.io.structures import Structure, clean_name, identity_words, layers_of, structure_of

SHAPE = (2, 3, 4)


def structure(number: int, name: str, *voxels: int) -> Structure:
    return structure_of(number, name, [np.array(voxels, dtype=np.int64)], SHAPE, f"SCT:{number}")


def test_structures_that_do_not_overlap_share_one_map_under_their_own_numbers() -> None:
    maps, findings = layers_of([structure(3, "liver", 0, 1), structure(7, "spleen", 5)], SHAPE)
    assert len(maps) == 1
    assert maps[0].voxels.reshape(-1)[:6].tolist() == [3, 3, 0, 0, 0, 7]
    assert (maps[0].labels, maps[0].codes) == ({0: "background", 3: "liver", 7: "spleen"}, {3: "SCT:3", 7: "SCT:7"})
    assert findings == ()


def test_overlapping_structures_take_as_few_maps_as_they_need() -> None:
    drawn = [structure(1, "a", 0, 1), structure(2, "b", 1, 2), structure(3, "c", 5)]
    maps, findings = layers_of(drawn, SHAPE)
    assert [sorted(m.labels) for m in maps] == [[0, 1, 3], [0, 2]]
    assert [f.code for f in findings] == ["overlapping_segments"]
    with pytest.raises(Refusal, match="structure 2 overlaps others"):
        layers_of(drawn, SHAPE, overlaps="refuse")


def test_configured_labels_choose_and_number_structures() -> None:
    drawn = [structure(1, "spleen", 0), structure(2, "liver", 1)]
    maps, findings = layers_of(drawn, SHAPE, labels={0: "background", 4: "Liver"})
    assert (maps[0].labels, int(maps[0].voxels.reshape(-1)[1])) == ({0: "background", 4: "liver"}, 4)
    assert [f.code for f in findings] == ["structures_left"]
    with pytest.raises(Refusal, match=r"found 2 structures, none of them wanted; expected \['kidney'\]"):
        layers_of(drawn, SHAPE, labels={1: "kidney"})


def test_numbers_beyond_255_are_counted_anew_and_empty_structures_found() -> None:
    maps, findings = layers_of([structure(300, "a", 0), structure(4, "b")], SHAPE)
    assert maps[0].labels == {0: "background", 1: "a", 2: "b"}
    assert [f.code for f in findings] == ["empty_structure"]


def test_more_structures_than_a_mask_has_values_are_refused() -> None:
    with pytest.raises(Refusal, match="256 structures, expected at most 255"):
        layers_of([structure(n, f"s{n}", n % 24) for n in range(256)], SHAPE)


def test_a_structure_is_the_box_of_its_voxels() -> None:
    found = structure_of(1, "a", [np.array([5]), np.array([18, 19])], SHAPE)  # (0, 1, 1) and (1, 1, 2), (1, 1, 3)
    assert (found.start, found.inside.shape) == ((0, 1, 1), (2, 1, 3))
    assert np.argwhere(found.inside).tolist() == [[0, 0, 0], [1, 0, 1], [1, 0, 2]]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Left Kidney", "left_kidney"),
        ("LeftKidney", "left_kidney"),
        ("GTV-1 (boost)", "gtv_1_boost"),
        ("Lésion Nº 2", "lesion_no_2"),
        ("Tumour of Jane", "segment_1"),
        ("roiPID7x", "segment_1"),
        ("drawn 20200102", "segment_1"),
        ("12-34-56", "segment_1"),
        ("", "segment_1"),
        ("漢字", "segment_1"),
    ],
)
def test_names_are_snake_case_and_tell_nothing_about_the_patient(text: str, name: str) -> None:
    data = Dataset()
    data.PatientName, data.PatientID, data.StudyDate = "Doe^Jane", "roi-PID7", "20200102"
    assert clean_name(text, identity_words(data), "segment_1") == name
