"""What a package promises of its scores."""

from __future__ import annotations

from medml.records.record import Record


class Calibration(Record):
    """What turns scores into probabilities, decisions and promises; chosen on validation cases.

    Attributes
    ----------
    temperature : float
        Logits are divided by it before softmax or sigmoid.
    threshold : float or None
        Binary classifiers: the probability of the last class from which it is called present.
    miss : float
        Share of patients, or of a structure, that the two promises below may miss.
    quantile : float or None
        Classifiers of one class a case: classes with 1 - probability up to it make the conformal set. None: no promise
        (too few patients, or a package from before).
    patients : int
        How many the quantile rests on; 0: not recorded.
    outer : dict
        Segmenters: label value to the probability from which voxels make its outer mask, which on average holds all
        but ``miss`` of the structure.
    """

    temperature: float = 1.0
    threshold: float | None = None
    miss: float = 0.1
    quantile: float | None = None
    patients: int = 0
    outer: dict[int, float] = {}
