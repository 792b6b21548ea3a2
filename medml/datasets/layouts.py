"""How three layouts name files and describe themselves. Text only: nothing here opens a file."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medml.io.files import dump_json
from medml.records.dataset import Dataset

if TYPE_CHECKING:
    from medml.datasets.export import Named

BIDS_VERSION = "1.10.0"
_BIDS_SUFFIXES = {
    "t1": "T1w", "t1w": "T1w", "t2": "T2w", "t2w": "T2w", "flair": "FLAIR", "pd": "PDw", "pdw": "PDw",
    "t2star": "T2starw", "ct": "ct", "pt": "pet", "pet": "pet",
}  # fmt: skip


class Layout(ABC):
    """Where images and masks go, and the documents that describe them.

    Attributes
    ----------
    together : bool
        Whether the channels of a case are one file.
    """

    together: bool = False

    @abstractmethod
    def images(self, item: Named, channels: Sequence[str]) -> list[str]:
        """Return the relative paths of a case's images, one per channel, or one if they go together."""

    @abstractmethod
    def mask(self, item: Named, channels: Sequence[str]) -> str:
        """Return the relative path of a case's mask."""

    def case(self, item: Named, channels: Sequence[str]) -> str:
        """Return what ``cases.csv`` calls a case: what its files' names begin with."""
        return item.name

    @abstractmethod
    def documents(self, dataset: Dataset, named: Sequence[Named], channels: Sequence[str]) -> dict[str, str]:
        """Return relative path to content of what describes the folder."""


class _NnUnet(Layout):
    """nnU-Net v2: ``imagesTr/<case>_0000.nii.gz``, ``labelsTr/<case>.nii.gz``, folds as ``splits_final.json``."""

    def images(self, item: Named, channels: Sequence[str]) -> list[str]:
        folder = "imagesTs" if item.part == "test" else "imagesTr"
        return [f"{folder}/{item.name}_{number:04d}.nii.gz" for number in range(len(channels))]

    def mask(self, item: Named, channels: Sequence[str]) -> str:
        return f"{'labelsTs' if item.part == 'test' else 'labelsTr'}/{item.name}.nii.gz"

    def documents(self, dataset: Dataset, named: Sequence[Named], channels: Sequence[str]) -> dict[str, str]:
        described: dict[str, Any] = {
            "name": dataset.name,
            "channel_names": {str(number): name for number, name in enumerate(channels)},
            "labels": _consecutive(dataset.labels) if dataset.task == "segment" else {"background": 0},
            "numTraining": sum(item.part == "train" for item in named),
            "file_ending": ".nii.gz",
            "licence": _licence(dataset),
            "reference": f"medml dataset {dataset.digest}",
        }
        return {"dataset.json": dump_json(described), "splits_final.json": dump_json(_folds(dataset, named))}


class _Msd(Layout):
    """MSD: ``imagesTr/<case>.nii.gz`` with the channels as its fourth axis; labels or classes in ``dataset.json``."""

    together = True

    def images(self, item: Named, channels: Sequence[str]) -> list[str]:
        return [f"{'imagesTs' if item.part == 'test' else 'imagesTr'}/{item.name}.nii.gz"]

    def mask(self, item: Named, channels: Sequence[str]) -> str:
        return f"{'labelsTs' if item.part == 'test' else 'labelsTr'}/{item.name}.nii.gz"

    def documents(self, dataset: Dataset, named: Sequence[Named], channels: Sequence[str]) -> dict[str, str]:
        training = [item for item in named if item.part == "train"]
        test = [item for item in named if item.part == "test"]
        described: dict[str, Any] = {
            "name": dataset.name,
            "description": f"medml dataset {dataset.name}",
            "reference": f"medml dataset {dataset.digest}",
            "licence": _licence(dataset),
            "release": "1.0",
            "tensorImageSize": "3D" if len(channels) == 1 else "4D",
            "modality": {str(number): name for number, name in enumerate(channels)},
            "labels": {str(value): name for value, name in sorted(dataset.labels.items())},
            "numTraining": len(training),
            "numTest": len(test),
            "training": [
                {"image": f"./{self.images(item, channels)[0]}", "label": self._label(item, dataset, channels)}
                for item in training
            ],
            "test": [f"./{self.images(item, channels)[0]}" for item in test],
        }
        return {"dataset.json": dump_json(described), "splits_final.json": dump_json(_folds(dataset, named))}

    def _label(self, item: Named, dataset: Dataset, channels: Sequence[str]) -> str | int | list[int]:
        if dataset.task == "segment":
            return f"./{self.mask(item, channels)}"
        classes = list(item.case.classes or ())
        return classes if dataset.multi_label else classes[0]


class _Bids(Layout):
    """BIDS: images as raw data, masks as a derivative (``_dseg``), patients in ``participants.tsv``."""

    def case(self, item: Named, channels: Sequence[str]) -> str:
        return self.images(item, channels)[0].rpartition("/")[2].removesuffix(".nii.gz")

    def images(self, item: Named, channels: Sequence[str]) -> list[str]:
        suffixes = [_suffix(name) for name in channels]
        doubled = len(set(suffixes)) < len(suffixes)
        return [
            f"{_folder(item, suffix)}/{_entities(item)}{f'_acq-{_word(name)}' if doubled else ''}_{suffix}.nii.gz"
            for name, suffix in zip(channels, suffixes, strict=True)
        ]

    def mask(self, item: Named, channels: Sequence[str]) -> str:
        first = self.images(item, channels)[0].removesuffix(".nii.gz")
        folder, _, name = first.rpartition("/")
        entities, _, suffix = name.rpartition("_")
        return f"derivatives/medml/{folder}/{entities}_desc-{suffix}_dseg.nii.gz"

    def documents(self, dataset: Dataset, named: Sequence[Named], channels: Sequence[str]) -> dict[str, str]:
        described = {
            "Name": dataset.name,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "raw",
            "License": _licence(dataset) or "not stated",
        }
        derived = {
            "Name": f"{dataset.name} label maps",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "medml"}],
        }
        documents = {
            "dataset_description.json": dump_json(described),
            "participants.tsv": _participants(named),
            "participants.json": dump_json(_PARTICIPANTS),
            ".bidsignore": "cases.csv\nmedml_export.json\nsplits_final.json\n**/ct/\n*_image.nii.gz\n",
            "splits_final.json": dump_json(_folds(dataset, named)),
        }
        if dataset.task == "segment":
            documents["derivatives/medml/dataset_description.json"] = dump_json(derived)
            documents["derivatives/medml/dseg.tsv"] = "index\tname\n" + "".join(
                f"{value}\t{name}\n" for value, name in sorted(dataset.labels.items())
            )
        return documents


NNUNET, MSD, BIDS = _NnUnet(), _Msd(), _Bids()

_PARTICIPANTS = {
    "age": {"Description": "age at the scan; 90 stands for all older", "Units": "years"},
    "sex": {"Description": "sex", "Levels": {"M": "male", "F": "female", "O": "other"}},
}


def _folds(dataset: Dataset, named: Sequence[Named]) -> list[dict[str, list[str]]]:
    """Return nnU-Net's folds: names trained on and names validated on."""
    names = {item.case.case_id: item.name for item in named}
    return [
        {
            "train": sorted(names[case.case_id] for case in dataset.cases_of("train", fold=fold)),
            "val": sorted(names[case.case_id] for case in dataset.cases_of("validation", fold=fold)),
        }
        for fold in range(len(dataset.folds))
    ]


def _consecutive(labels: dict[int, str]) -> dict[str, int]:
    """Return name to value; nnU-Net wants every value up to the largest, so unused ones get a name."""
    return {labels.get(value, f"unused_{value}" if value else "background"): value for value in range(max(labels) + 1)}


def _licence(dataset: Dataset) -> str:
    stated = sorted({text for text in dataset.licences.values() if text})
    return "; ".join(stated)


def _participants(named: Sequence[Named]) -> str:
    rows: dict[str, tuple[str, str]] = {}
    for item in named:
        age, sex = (item.case.columns.get(key) for key in ("age", "sex"))
        rows.setdefault(item.subject, ("n/a" if age is None else str(age), "n/a" if sex is None else str(sex)))
    lines = [f"{subject}\t{age}\t{sex}" for subject, (age, sex) in sorted(rows.items())]
    return "\n".join(["participant_id\tage\tsex", *lines]) + "\n"


def _suffix(channel: str) -> str:
    return _BIDS_SUFFIXES.get(channel.lower(), "image")


def _folder(item: Named, suffix: str) -> str:
    session = f"/ses-{item.number:02d}" if item.of > 1 else ""
    return f"{item.subject}{session}/{suffix if suffix in ('ct', 'pet') else 'anat'}"


def _entities(item: Named) -> str:
    return f"{item.subject}_ses-{item.number:02d}" if item.of > 1 else item.subject


def _word(channel: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", channel) or "x"
