"""What is known of a patient who is to be erased, and what stays when it is done."""

from __future__ import annotations

from medml.records.record import Record


class Erasure(Record):
    """An erasure under way; kept among the secrets (0600) until it is done, so that a killed one can be finished.

    Attributes
    ----------
    erasure_id : str
        Opaque.
    patient : str
        The patient's pseudonym.
    names : tuple of str
        Every other name that stands for the patient alone: studies, groups, contents, UIDs of studies and series.
    sources : tuple of str
        Absolute paths of the files that the scans were read from.
    outputs : tuple of str
        Folders outside of the home that batches wrote to.
    datasets : tuple of str
        Digests of the frozen datasets that hold cases of the patient.
    """

    erasure_id: str
    patient: str
    scan_ids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()


class Forgotten(Record):
    """The mark beside a frozen dataset some of whose cases were erased; it names nobody.

    Attributes
    ----------
    digest : str
        Of the dataset as it was frozen.
    total, left : int
        Cases that it had when it was frozen, and has still.
    when : str
        Of the last erasure; UTC, ISO 8601.
    sha256 : str
        Of the dataset's file as it is now, in place of the digest that its cases can no longer give.
    """

    digest: str
    total: int
    left: int
    when: str
    sha256: str

    @property
    def erased(self) -> int:
        """How many of its cases were erased."""
        return self.total - self.left
