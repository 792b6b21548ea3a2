"""One conversion in a process of its own; prints one JSON line of what it took. Runs under the peers' Python too.

Usage: python ingest_child.py TOOL SOURCE OUT [PROGRAM OPTIONS...]
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    tool, source, out, *options = sys.argv[1:]
    convert = TOOLS[tool](Path(source), Path(out), options)
    start = cpu()
    begin = time.perf_counter()
    convert()
    wall = time.perf_counter() - begin
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    rss = children if tool == "dcm2niix" else peak() + children
    print("@@" + json.dumps({"start": start, "cpu": cpu() - start, "wall": wall, "rss": rss}))


def cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def peak() -> float:
    """Return the peak memory of this program in MB; ru_maxrss would count what ran before it in this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


# Each returns what is timed, its imports done.


def ours(source: Path, out: Path, options: list[str]):
    from medml.catalogue.convert import convert_series

    return lambda: convert_series(source, out)


def ours_folder(source: Path, out: Path, options: list[str]):
    from medml.catalogue.convert import convert_folder

    return lambda: convert_folder(source, out)


def ours_ingest(source: Path, out: Path, options: list[str]):
    from medml.catalogue.config import IngestConfig
    from medml.catalogue.ingest import ingest
    from medml.io.files import Pseudonyms
    from medml.records.home import Home
    from medml.store.catalogue import Catalogue
    from medml.store.crosswalk import Crosswalk
    from medml.store.database import open_database

    home = Home(out)
    catalogue = Catalogue(open_database(home.catalogue_url))
    crosswalk, pseudonyms = Crosswalk(home.crosswalk_url), Pseudonyms(home.key_file)

    def run() -> None:
        report = ingest([source], home, catalogue, crosswalk, pseudonyms, IngestConfig())
        assert report.counts.accepted, report

    return run


def ours_deidentify(source: Path, out: Path, options: list[str]):
    from medml.catalogue.deidentify import deidentify
    from medml.io.files import Pseudonyms
    from medml.records.home import Home

    home = Home(out.parent / "home")
    return lambda: deidentify(source, out, home, Pseudonyms(home.key_file))


def dcm2niix(source: Path, out: Path, options: list[str]):
    program, *flags = options
    command = [program, *flags, "-b", "n", *([] if "-f" in flags else ["-f", "o"]), "-o", str(out.parent), str(source)]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def simpleitk(source: Path, out: Path, options: list[str]):
    import SimpleITK

    def run() -> None:
        names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(source))
        SimpleITK.WriteImage(SimpleITK.ReadImage(names), str(out))

    return run


def dicom2nifti(source: Path, out: Path, options: list[str]):
    import dicom2nifti as package

    return lambda: package.dicom_series_to_nifti(str(source), str(out), reorient_nifti=False)


def monai(source: Path, out: Path, options: list[str]):
    from monai.transforms import LoadImage, SaveImage

    def run() -> None:
        image = LoadImage(reader="PydicomReader", image_only=True, ensure_channel_first=True)(str(source))
        save = SaveImage(
            output_dir=str(out.parent), output_ext=".nii", separate_folder=False, print_log=False, resample=False
        )
        save(image)

    return run


def pydicom_edit(source: Path, out: Path, options: list[str]):
    import pydicom

    def run() -> None:
        out.mkdir(parents=True)
        for path in sorted(source.iterdir()):
            data = pydicom.dcmread(path)
            data.PatientName = data.PatientID = "X"
            data.remove_private_tags()
            data.save_as(out / path.name)

    return run


TOOLS = {
    "ours": ours,
    "ours_folder": ours_folder,
    "ours_ingest": ours_ingest,
    "ours_deidentify": ours_deidentify,
    "dcm2niix": dcm2niix,
    "simpleitk": simpleitk,
    "dicom2nifti": dicom2nifti,
    "monai": monai,
    "pydicom": pydicom_edit,
}

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
