"""A MedMNIST ``.npz``: one scan per image, each a patient of its own, the official split kept as a column."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from medml.catalogue.tree import Tree, outcome_of, printable
from medml.errors import Refusal
from medml.io.medmnist import MedMnist, open_medmnist
from medml.records.candidate import Candidate, Reading
from medml.records.scan import Outcome

ORIGIN = "medmnist"


def find_arrays(tree: Tree, name: str) -> Iterator[Candidate | Outcome]:
    """Yield a candidate for each image of an archive; the first one accounts for the file.

    Classes are named by their numbers, from 0 to the largest of all splits. Where images have several labels, each
    column of the label array is a class that holds or does not.
    """
    path = tree.path(name)
    try:
        archive = open_medmnist(path)
    except Refusal as refusal:
        yield outcome_of(printable(name), "refused", refusal.code, str(refusal), files=tree.take([name]))
        return
    labels = {value: str(value) for value in range(_class_count(archive))}
    stamp = tree.stamp([path], [tree.collection, sorted(labels)])
    files = tree.take([name])
    status = path.stat()
    state = (status.st_size, status.st_mtime_ns)
    for split, count in archive.counts.items():
        for index, vector in zip(range(count), archive.labels(split), strict=True):
            source = f"{name}#{split}/{index}"
            held = np.flatnonzero(vector) if archive.multi_label else vector
            yield Candidate(
                source=printable(source),
                files=files,
                identity=f"{tree.collection}/{source}",
                stamp=hashlib.sha256(f"{stamp}#{split}/{index}".encode()).hexdigest(),
                read=partial(_read, path, state, split, index),
                patient=(f"collection:{tree.collection}", source),
                study=f"{tree.collection}/{source}",
                group=f"{tree.collection}/{source}",
                channel_names=("R", "G", "B") if archive.components == 3 else ("image",),
                columns={"split": split},
                classes=tuple(int(value) for value in held),
                class_labels=labels,
                multi_label=archive.multi_label,
                origin=ORIGIN,
                locator={"kind": "medmnist", "image": str(path), "split": split, "index": index},
            )
            files = 0


def _class_count(archive: MedMnist) -> int:
    labels = [archive.labels(split) for split in archive.counts]
    if archive.multi_label:
        return int(labels[0].shape[1])
    return 1 + max(int(found.max()) for found in labels)


def _read(path: Path, state: tuple[int, int], split: str, index: int) -> Reading:
    volume, grid = _opened(path, state).read(split, index)
    return Reading(volume, grid)


@lru_cache(maxsize=2)
def _opened(path: Path, state: tuple[int, int]) -> MedMnist:
    """Open an archive once for all its images; it must still be the one that the walk saw."""
    status = path.stat()
    if (status.st_size, status.st_mtime_ns) != state:
        raise Refusal("source_changed", "the archive has changed while this ran; ingest it again")
    return open_medmnist(path)
