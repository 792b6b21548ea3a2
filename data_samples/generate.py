"""Write a cohort of phantom patients: DICOM series, NIfTI volumes, masks and a manifest.

    python data_samples/generate.py OUT [--patients 120] [--seed 0] [--new 8]
    python data_samples/generate.py data_samples/tiny --tiny

OUT/cohort holds labelled patients and ``manifest.csv``, OUT/new unlabelled scans of other patients. Equal arguments
give equal files. Nobody in it is real; `data_samples/README.md` says what is in the pictures.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

if __package__ in (None, ""):  # run as a script: its folder is on the path, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_samples import dicom_series, nifti_volume
from data_samples.phantom import Phantom, Style, make_phantom

COLUMNS = ("subject_id", "image", "mask", "label", "modality", "sex", "age", "scanner", "site")
NEW_PATIENTS_FROM = 5000


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write the cohort."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path, help="folder to write; made if absent")
    parser.add_argument("--patients", type=int, default=120, help="labelled patients (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other patients (default: %(default)s)")
    parser.add_argument("--new", type=int, default=8, help="unlabelled patients (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="write the two patients that are committed, and no more")
    options = parser.parse_args(arguments)
    if options.tiny:
        print(f"{options.out}: {len(write_tiny(options.out))} tiny patients")
        return
    rows = write_cohort(options.out / "cohort", patients=options.patients, seed=options.seed)
    written = write_new(options.out / "new", patients=options.new, seed=options.seed)
    lesions = sum(row["label"] == "lesion" for row in rows)
    print(f"{options.out}: {len(rows)} patients in cohort/ ({lesions} with lesions), {written} scans in new/")


def write_cohort(out: Path, *, patients: int = 120, seed: int = 0) -> list[dict[str, str]]:
    """Write labelled patients with masks and ``manifest.csv``.

    Returns
    -------
    list of dict
        The rows of the manifest; paths are relative to ``out``.
    """
    return _write_labelled(phantoms(range(1, patients + 1), seed=seed), out, suffix=".nii.gz")


def write_tiny(out: Path) -> list[dict[str, str]]:
    """Write one DICOM and one NIfTI patient of 16 x 16 x 4 voxels, uncompressed: equal bytes on every machine."""
    shape = (16, 16, 4)
    pair = (make_phantom(2, style=Style.PLAIN, shape=shape), make_phantom(4, style=Style.NIFTI, shape=shape))
    return _write_labelled(pair, out, suffix=".nii")


def write_new(out: Path, *, patients: int = 8, seed: int = 0) -> int:
    """Write unlabelled scans as they lie in a hospital's inbox; return how many.

    Series of several patients share a folder, DICOM files have no suffix and no telling name, one patient was
    reconstructed twice, and every fourth patient comes as NIfTI.
    """
    scans = 0
    for number, phantom in enumerate(phantoms(range(NEW_PATIENTS_FROM, NEW_PATIENTS_FROM + patients), seed=seed)):
        if number % 4 == 3:
            nifti_volume.write_image(phantom, out / f"{phantom.subject}.nii.gz")
        else:
            folder = out / f"inbox_{number // 4 + 1}"
            dicom_series.write_series(phantom, folder, name="IM{index:05d}", first=100 * number)
            if number % 8 == 1:
                again = make_phantom(NEW_PATIENTS_FROM + number, seed=seed, reconstruction=2)
                dicom_series.write_series(again, folder, name="IM{index:05d}", first=100 * number + 50)
                scans += 1
        scans += 1
    return scans


def phantoms(numbers: range, *, seed: int = 0) -> Iterator[Phantom]:
    """Make the patients with these numbers; each depends on its number and the seed only."""
    for number in numbers:
        yield make_phantom(number, seed=seed)


def _write_labelled(patients: Iterable[Phantom], out: Path, *, suffix: str) -> list[dict[str, str]]:
    rows = []
    for phantom in patients:
        image = out / "images" / phantom.subject
        if phantom.style is Style.NIFTI:
            image = image.with_name(phantom.subject + suffix)
            nifti_volume.write_image(phantom, image)
        else:
            dicom_series.write_series(phantom, image, name="{index:04d}.dcm")
        mask = out / "masks" / (phantom.subject + suffix)
        nifti_volume.write_mask(phantom, mask)
        rows.append(_row(phantom, image.relative_to(out).as_posix(), mask.relative_to(out).as_posix()))
    _write_manifest(rows, out / "manifest.csv")
    return rows


def _row(phantom: Phantom, image: str, mask: str) -> dict[str, str]:
    return {
        "subject_id": phantom.subject,
        "image": image,
        "mask": mask,
        "label": phantom.label,
        "sex": phantom.sex,
        "age": str(phantom.age),
        "modality": "CT",
        "scanner": phantom.scanner.name,
        "site": phantom.scanner.site,
    }


def _write_manifest(rows: list[dict[str, str]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
