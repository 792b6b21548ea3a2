"""Where things are kept: one folder, `MEDML_HOME`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Home:
    """The folder that holds everything medml keeps; the only place that knows its layout.

    Attributes
    ----------
    root : Path
        Absolute path.
    """

    root: Path

    @property
    def catalogue_url(self) -> str:
        return f"sqlite:///{self.root / 'catalogue.db'}"

    @property
    def scans(self) -> Path:
        return self.root / "scans"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def runs(self) -> Path:
        """Checkpoints and epochs of unfinished and finished trainings, one folder per run key."""
        return self.root / "runs"

    @property
    def batches(self) -> Path:
        return self.root / "batches"

    @property
    def inbox(self) -> Path:
        """The folder that the scheduled inference watches."""
        return self.root / "inbox"

    @property
    def prefect(self) -> Path:
        return self.root / "prefect"

    @property
    def mlflow_url(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def mlartifacts(self) -> Path:
        return self.root / "mlartifacts"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def audit(self) -> Path:
        """Who did what and when."""
        return self.root / "audit"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def requests(self) -> Path:
        return self.secrets / "requests"

    @property
    def quarantine(self) -> Path:
        """What is held back because its pixels may show a name, and who released it."""
        return self.secrets / "quarantine"

    @property
    def erasures(self) -> Path:
        """What is to be erased, while an erasure is under way."""
        return self.secrets / "erasures"

    @property
    def key_file(self) -> Path:
        return self.secrets / "pseudonym.key"

    @property
    def crosswalk_url(self) -> str:
        return f"sqlite:///{self.secrets / 'crosswalk.db'}"

    def scan_folder(self, scan_id: str) -> Path:
        return self.scans / scan_id[:2] / scan_id
