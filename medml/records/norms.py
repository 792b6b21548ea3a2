"""What the training data look like, kept with a model, so that it can say what it has never seen."""

from __future__ import annotations

from medml.records.record import Record

ASPECTS = {
    "geometry": "voxel size and field of view",
    "intensity": "brightness, contrast and noise",
    "layout": "where what lies in the image",
    "features": "what the network sees in it",
}


class Aspect(Record):
    """One way of looking at a scan: a Gaussian over D numbers, with a low-rank covariance.

    Attributes
    ----------
    centre, scale : tuple of float
        Of each number; a scan is judged by (number - centre) / scale.
    axes : tuple of tuple of float
        Principal axes of the scaled numbers, each of length 1.
    variances : tuple of float
        Along each axis.
    rest : float
        Variance along every other direction.
    reach : float
        Distance of the farthest of the scans known: what distances are compared with.
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...]
    variances: tuple[float, ...]
    rest: float
    reach: float


class Structure(Record):
    """What one label looks like in the references of the scans known.

    Attributes
    ----------
    scans : int
        In how many scans it was looked for.
    absent : int
        In how many of them there is none of it.
    touching : int
        In how many it touches the border of the image.
    pieces : int
        The most large components in one scan.
    least_ml, most_ml : float or None
        Smallest and largest volume where it is there; None where voxels have no size.
    """

    scans: int
    absent: int = 0
    touching: int = 0
    pieces: int = 1
    least_ml: float | None = None
    most_ml: float | None = None


class Norms(Record):
    """``norms.json`` of a package: what is usual for the model.

    Attributes
    ----------
    learned, judged : int
        Training scans that the Gaussians are of; validation scans that say how far is usual.
    layer : str
        The module of the first network whose pooled output is the aspect "features"; empty: there is none.
    aspects : dict
        Name (of `ASPECTS`) to what is usual.
    scores : tuple of float
        Of the judged scans, rising: the largest distance as a multiple of its aspect's reach.
    uncertainty : tuple of float
        Of the judged scans, rising: as in `Prediction.uncertainty`.
    structures : dict
        Label value to what its references look like (segmenters).
    """

    learned: int
    judged: int
    layer: str = ""
    aspects: dict[str, Aspect] = {}
    scores: tuple[float, ...] = ()
    uncertainty: tuple[float, ...] = ()
    structures: dict[int, Structure] = {}
