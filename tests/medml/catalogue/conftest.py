"""Tiny sources built in sight: volumes of 4x5x6 voxels, pictures of 6x4 pixels, and a home to read them into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medml.catalogue.config import IngestConfig
from medml.catalogue.ingest import ingest
from medml.io.files import Pseudonyms
from medml.io.nifti import write_nifti
from medml.records.candidate import Candidate
from medml.records.home import Home
from medml.records.ingest import IngestReport
from medml.records.scan import Outcome, Volume
from medml.store.catalogue import Catalogue
from medml.store.crosswalk import Crosswalk
from medml.store.database import open_database


class Source:
    """A folder that a test fills."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def image(self, name: str, seed: int = 0, *, components: int = 1, spacing: float = 1.0) -> Path:
        """Write a NIfTI image; another ``seed``, another content."""
        voxels = np.random.default_rng(seed).integers(0, 1000, (components, 4, 5, 6)).astype(np.int16)
        return self.nifti(name, voxels, spacing=spacing)

    def mask(self, name: str, values: tuple[int, ...] = (1, 2), *, shape: tuple[int, int, int] = (4, 5, 6)) -> Path:
        """Write a NIfTI label map that holds 0 and ``values``."""
        voxels = np.zeros((1, *shape), dtype=np.uint8)
        voxels[0, 1, 1, : len(values)] = values
        return self.nifti(name, voxels)

    def nifti(self, name: str, voxels: np.ndarray, *, spacing: float = 1.0) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(path, Volume(voxels, np.diag([spacing, spacing, spacing, 1.0])))
        return path

    def picture(self, name: str, seed: int = 0) -> Path:
        """Write a grey picture of 6 columns and 4 rows."""
        return self.pixels(name, np.random.default_rng(seed).integers(0, 255, (4, 6)).astype(np.uint8))

    def pixels(self, name: str, pixels: np.ndarray) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path

    def text(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path


class Desk:
    """A home with its catalogue, and `ingest` bound to it."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.catalogue = Catalogue(open_database(self.home.catalogue_url))
        self.crosswalk = Crosswalk(self.home.crosswalk_url)
        self.pseudonyms = Pseudonyms(self.home.key_file)

    def ingest(
        self,
        *sources: Path,
        config: IngestConfig | None = None,
        on_outcome: Callable[[Outcome], object] | None = None,
    ) -> IngestReport:
        return ingest(sources, self.home, self.catalogue, self.crosswalk, self.pseudonyms, config, on_outcome)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "source")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "home").mkdir()
    return Desk(tmp_path / "home")


def split_found(found: list[Candidate | Outcome]) -> tuple[dict[str, Candidate], dict[str, Outcome]]:
    """Return candidates and outcomes by source."""
    candidates = {item.source: item for item in found if isinstance(item, Candidate)}
    return candidates, {item.source: item for item in found if isinstance(item, Outcome)}


@pytest.fixture
def split() -> Callable[[list[Candidate | Outcome]], tuple[dict[str, Candidate], dict[str, Outcome]]]:
    return split_found
