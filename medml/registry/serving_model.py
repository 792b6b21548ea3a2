"""How MLflow serves a package: ``mlflow models serve`` imports this module; nothing is unpickled.

One request row holds one image: the bytes of a ``.nii.gz``, in base64. The answer is the mask on the image's own grid,
as the same kind of text, or the class probabilities.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medml.errors import Refusal

if TYPE_CHECKING:
    import pandas as pd

    from medml.networks.predictor import Predictor


class ServedPackage:
    """What MLflow calls: a table with a column ``image`` in, a table of as many rows out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._predictor: Predictor | None = None

    @property
    def predictor(self) -> Predictor:
        """The predictor; weights are read at the first request."""
        if self._predictor is None:
            from medml.networks.predictor import Predictor

            self._predictor = Predictor(self.folder)
        return self._predictor

    def predict(self, table: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Run the package over every row's image."""
        import pandas as pd

        return pd.DataFrame([self._answer(text) for text in table["image"]])

    def _answer(self, image: str) -> dict[str, str | float]:
        from medml.io.nifti import read_nifti, write_on_grid

        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "image.nii.gz"
            source.write_bytes(_decoded(image))
            volume, grid = read_nifti(source)
            prediction = self.predictor.predict(volume)
            if prediction.mask is None:
                assert prediction.probabilities is not None
                names = self.predictor.plan.labels.values()
                return {f"p_{name}": float(p) for name, p in zip(names, prediction.probabilities, strict=True)}
            mask = Path(folder) / "mask.nii.gz"
            write_on_grid(mask, prediction.mask, grid)
            return {"mask": base64.b64encode(mask.read_bytes()).decode("ascii")}


def _decoded(image: str) -> bytes:
    try:
        return base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(
            "not_base64",
            f"the image is not base64 ({error}); send the bytes of a .nii.gz in base64",
        ) from None


def _load_pyfunc(data_path: str) -> ServedPackage:
    """Entry point that MLflow calls with the package's folder."""
    return ServedPackage(Path(data_path))
