"""What medml, dcm2niix, SimpleITK and MONAI make of each DICOM case of the corpus: `python -m benchmarks.coverage`.

dcm2niix and SimpleITK live in an environment of their own (`benchmarks.peers`). Each output is judged by the landmarks
alone: where the standard says they are, against where the file that came out has them.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "ingest.md"
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"
# Cases of these groups are DICOM images that each peer claims to read.
SOUND = "reading-explicit_little"
GROUPS = ("reading", "objects", "multiframe", "geometry", "mixtures", "values", "identities", "robustness")
# Bq/mL where we give SUV is another unit, not another image.
SKIPPED = ("values-suv", "values-suv_over_midnight")
SECONDS = 120
# A copy on the source's own lattice is exact to rounding; half a voxel would hide a gap closed over twelve slices.
EXACT_VOXELS = 0.1
WARNED = re.compile(r"warn|error|unsupported|inconsist|missing|not equidistant|skipping|unable|gantry|conflict", re.I)

sys.path.insert(0, str(ROOT / "tests"))
from corpus.all_cases import ALL  # noqa: E402
from corpus.judge import mismatch, misplaced  # noqa: E402
from corpus.phantom import Truth  # noqa: E402
from corpus.source import Case, Source  # noqa: E402

from benchmarks.peers import find_peers  # noqa: E402

SITK_CHILD = """
import sys, SimpleITK as sitk
folder, out = sys.argv[1:]
reader = sitk.ImageSeriesReader()
import os
count = 0
for here, _, _ in os.walk(folder):
    for uid in reader.GetGDCMSeriesIDs(here):
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(here, uid))
        try:
            image = reader.Execute()
        except RuntimeError as error:
            print("refused:", str(error).splitlines()[-1], file=sys.stderr)
            continue
        sitk.WriteImage(image, f"{out}/{count}.nii")
        count += 1
"""
MONAI_CHILD = """
import os, sys, numpy as np, nibabel
from monai.data import PydicomReader
from monai.transforms import LoadImage
folder, out = sys.argv[1:]
count = 0
for here, _, files in os.walk(folder):
    paths = [os.path.join(here, f) for f in files if os.path.isfile(os.path.join(here, f))]
    if not paths:
        continue
    try:
        image = LoadImage(reader=PydicomReader(), image_only=True)(here if len(paths) > 1 else paths[0])
    except Exception as error:
        print("refused:", type(error).__name__, file=sys.stderr)
        continue
    nibabel.Nifti1Image(np.asarray(image, dtype=np.float64), np.asarray(image.affine)).to_filename(f"{out}/{count}.nii")
    count += 1
"""


@dataclass(frozen=True)
class Verdict:
    """What one tool did with one case.

    Attributes
    ----------
    word : str
        right, right in part, right beside a wrong copy, refused, passed on, wrong with a warning, wrong silently,
        crashed, hung.
        "passed on": given out although it should be refused, since it is no volume, damaged, or may show a name.
    note : str
    """

    word: str
    note: str = ""

    @property
    def cell(self) -> str:
        bold = self.word.startswith("wrong")
        text = f"**{self.word}**" if bold else self.word
        return f"{text} ({self.note})" if self.note else text


Tool = Callable[[Path, Path], subprocess.CompletedProcess[str]]


def main(arguments: list[str]) -> None:
    """Run every tool on every case and write the table into ``docs/ingest.md``."""
    wanted = re.compile(arguments[0]) if arguments else None
    cases = [
        case
        for case in ALL
        if case.group in GROUPS and case.id not in SKIPPED and (wanted is None or wanted.search(case.id))
    ]
    rows, tools = [], {"medml": _medml, "dcm2niix": _dcm2niix, "SimpleITK": _simpleitk, "MONAI": _monai}
    for case in cases:
        found = judge_case(case, tools)
        if found is None:
            continue
        rows.append((case, found))
        print(f"{case.id:48s} " + " | ".join(f"{name}: {verdict.cell}" for name, verdict in found.items()), flush=True)
    text = "\n".join(_table(rows, tuple(tools)))
    if wanted is None:
        _write(text)
    print(_summary(rows, tuple(tools)))


@cache
def _peers() -> tuple[Path, Path]:
    """Return the interpreter that has SimpleITK, and dcm2niix of the same environment."""
    peers = find_peers()
    if peers.python is None or "PyPI" not in peers.dcm2niix:
        raise SystemExit("; ".join(peers.missing))
    return peers.python, peers.dcm2niix["PyPI"]


def judge_case(case: Case, tools: dict[str, Tool]) -> dict[str, Verdict] | None:
    """Return each tool's verdict; None if the case holds nothing to judge by landmarks."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        expected = case.make(Source(root / "source", case.id))
        truths = [truth for truth in (*expected.held, *expected.maybe) if not truth.flat]
        must = [truth for truth in expected.held if not truth.flat]
        if not truths and not expected.refused:
            return None
        found = {}
        for name, tool in tools.items():
            out = root / f"out-{name}"
            out.mkdir()
            found[name] = _judge(tool, root / "source", out, truths, must)
        return found


def _judge(tool: Tool, source: Path, out: Path, truths: list[Truth], must: list[Truth]) -> Verdict:
    try:
        done = tool(source, out)
    except subprocess.TimeoutExpired:
        return Verdict("hung", f"over {SECONDS} s")
    volumes = [volume for path in sorted(out.rglob("*.nii*")) for volume in _volumes(path)]
    if not volumes:
        return Verdict("crashed", f"signal {-done.returncode}") if done.returncode < 0 else Verdict("refused")
    matched, wrong = set(), []
    for voxels, affine in volumes:
        reasons = {}
        for number, truth in enumerate(truths):
            by_landmarks = truth.points or truth.values is None
            reasons[number] = (misplaced if by_landmarks else mismatch)(truth, voxels, affine, exact=EXACT_VOXELS)
            if not reasons[number]:
                matched.add(id(truth))
                break
        else:
            wrong.append(_shortest(reasons.values()))
    if wrong and must and all(id(truth) in matched for truth in must):
        return Verdict("right beside a wrong copy")
    if wrong:
        notes = Counter(wrong).most_common(1)[0][0]
        warned = bool(_warnings(done) - _usual(tool))
        if not truths:
            return Verdict("passed on with a warning" if warned else "passed on")
        return Verdict("wrong with a warning" if warned else "wrong silently", notes)
    if not all(id(truth) in matched for truth in must):
        return Verdict("right in part", f"{len(matched)} of {len(must)} images")
    return Verdict("right")


@cache
def _usual(tool: Tool) -> frozenset[str]:
    """Return what a tool warns of on a sound series; that says nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        next(case for case in ALL if case.id == SOUND).make(Source(root / "source", SOUND))
        (root / "out").mkdir()
        return frozenset(_warnings(tool(root / "source", root / "out")))


def _warnings(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Return the lines that warn, without their numbers."""
    lines = (done.stdout + done.stderr).splitlines()
    return {re.sub(r"0x[0-9a-f]+|[0-9.]+", "", line) for line in lines if WARNED.search(line)}


def _shortest(reasons: Iterable[str]) -> str:
    found = sorted(reasons, key=lambda reason: ("voxels off" not in reason and "mm off" not in reason, len(reason)))
    if not found:
        return "a volume where there is none"
    text = found[0]
    if "times" in text or "not found" in text:
        return "values changed, merged or lost"
    return re.sub(r"landmark \d+ lies", "landmarks", text)


def _volumes(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each component of a file as (I, J, K) with its affine."""
    image = nibabel.load(path)
    colour = image.get_data_dtype().names is not None
    voxels = np.asarray(image.dataobj.get_unscaled()["R"] if colour else image.dataobj).astype(float)
    while voxels.ndim < 3:
        voxels = voxels[..., None]
    voxels = voxels.reshape(*voxels.shape[:3], -1)
    return [(voxels[..., n], image.affine) for n in range(voxels.shape[3])]


def _run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False, env=environment
    )


def _dcm2niix(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return _run([_peers()[1], "-z", "n", "-b", "n", "-d", "9", "-f", "%s_%p_%t", "-o", out, source])


def _simpleitk(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return _run([_peers()[0], "-c", SITK_CHILD, source, out])


def _monai(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    # One process that stays, since MONAI takes seconds to import.
    return _MonaiServer.get().run(source, out)


class _MonaiServer:
    """A child that has MONAI imported and forks for each case."""

    _here: _MonaiServer | None = None

    def __init__(self) -> None:
        code = (
            "import os, sys, json, monai.transforms, monai.data, nibabel\n"
            f"child = {MONAI_CHILD!r}\n"
            "for line in sys.stdin:\n"
            "    source, out, log = json.loads(line)\n"
            "    pid = os.fork()\n"
            "    if pid == 0:\n"
            "        fd = os.open(log, os.O_WRONLY | os.O_CREAT); os.dup2(fd, 1); os.dup2(fd, 2)\n"
            "        import signal; signal.alarm(120)\n"
            "        sys.argv = ['', source, out]\n"
            "        try:\n"
            "            exec(child, {})\n"
            "        except BaseException as error:\n"
            "            print('refused:', error, file=sys.stderr); sys.stderr.flush(); os._exit(1)\n"
            "        sys.stderr.flush(); os._exit(0)\n"
            "    print(os.waitpid(pid, 0)[1], flush=True)\n"
        )
        self._child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @classmethod
    def get(cls) -> _MonaiServer:
        cls._here = cls._here or cls()
        return cls._here

    def run(self, source: Path, out: Path) -> subprocess.CompletedProcess[str]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        log = out.parent / "monai.log"
        self._child.stdin.write(json.dumps([str(source), str(out), str(log)]) + "\n")
        self._child.stdin.flush()
        status = os.waitstatus_to_exitcode(int(self._child.stdout.readline()))
        told = log.read_text(errors="replace") if log.exists() else ""
        return subprocess.CompletedProcess([], status, "", told)


def _medml(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Ingest in this process and lay the images out beside those of the others."""
    from medml.catalogue.config import IngestConfig
    from medml.catalogue.ingest import ingest
    from medml.io.files import Pseudonyms
    from medml.records.home import Home
    from medml.store.catalogue import Catalogue
    from medml.store.crosswalk import Crosswalk
    from medml.store.database import open_database

    logging.disable(logging.CRITICAL)
    home = Home(out.parent / "home")
    home.root.mkdir()
    catalogue = Catalogue(open_database(home.catalogue_url))
    config = IngestConfig(collection="corpus", isolated=False)
    report = ingest([source], home, catalogue, Crosswalk(home.crosswalk_url), Pseudonyms(home.key_file), config)
    for scan_id in {scan_id for outcome in report.outcomes for scan_id in outcome.scan_ids}:
        shutil.copy(home.scan_folder(scan_id) / "image.nii.gz", out / f"{scan_id}.nii.gz")
    told = " ".join(f"warning {f.code}" for o in report.outcomes for f in o.findings if f.severity != "info")
    return subprocess.CompletedProcess([], 0, told, "")


def _table(rows: list[tuple[Case, dict[str, Verdict]]], tools: tuple[str, ...]) -> list[str]:
    lines = [_versions(), "", _summary(rows, tools), ""]
    lines += [f"| case | {' | '.join(tools)} |", "| --- |" + " --- |" * len(tools)]
    group = ""
    for case, found in rows:
        if case.group != group:
            group = case.group
            lines.append(f"| *{group}* |" + " |" * len(tools))
        lines.append(f"| {case.title} | " + " | ".join(found[tool].cell for tool in tools) + " |")
    return lines


def _summary(rows: list[tuple[Case, dict[str, Verdict]]], tools: tuple[str, ...]) -> str:
    words = (
        "right",
        "right in part",
        "right beside a wrong copy",
        "refused",
        "passed on with a warning",
        "passed on",
        "wrong with a warning",
        "wrong silently",
        "crashed",
        "hung",
    )
    counts: dict[str, Counter[str]] = {tool: Counter(found[tool].word for _, found in rows) for tool in tools}
    lines = [f"| {len(rows)} cases | {' | '.join(words)} |", "| --- |" + " --- |" * len(words)]
    lines += [f"| {tool} | " + " | ".join(str(counts[tool][word]) for word in words) + " |" for tool in tools]
    return "\n".join(lines)


def _versions() -> str:
    import monai

    import medml

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    installed = _run([_peers()[0], "-m", "pip", "list", "--format", "json"]).stdout
    peers: dict[str, Any] = {row["name"].lower(): row["version"] for row in json.loads(installed)}
    ours = f"medml {medml.__version__} (commit {commit.stdout.strip()} and what followed)"
    others = f"dcm2niix {peers['dcm2niix']}, SimpleITK {peers['simpleitk']} (`ImageSeriesReader`, GDCM)"
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `python -m benchmarks.coverage`: {ours}, {others}, "
        f"MONAI {monai.__version__} (`LoadImage`, `PydicomReader`)."
    )


def _write(text: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
