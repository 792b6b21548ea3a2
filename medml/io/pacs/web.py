"""A PACS by DICOMweb: QIDO-RS to find, WADO-RS to fetch, STOW-RS to send (PS3.18)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.errors import InvalidDicomError
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

from medml.io.pacs.archive import Pace, PacsError, Query, RemoteSeries, keep, missing, patiently
from medml.io.pacs.config import PacsConfig

PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
# Every syntax as it is stored: nothing is transcoded on the way.
AS_STORED = (("application/dicom", "*"),)
FILTERS = {
    "modality": "Modality",
    "dates": "StudyDate",
    "patient": "PatientID",
    "accession": "AccessionNumber",
    "study_uid": "StudyInstanceUID",
    "description": "SeriesDescription",
    "body_part": "BodyPartExamined",
}
PAGE = 1000


class WebArchive:
    """A PACS that speaks DICOMweb.

    Parameters
    ----------
    secrets : Path, optional
        Folder of files with passwords and tokens, for those that the environment does not hold.
    """

    def __init__(self, config: PacsConfig, secrets: Path | None = None) -> None:
        self.config = config
        session = requests.Session()
        session.trust_env = False  # neither proxies nor .netrc decide where images and passwords go
        session.mount("http://", HTTPAdapter())
        if config.user:
            session.auth = HTTPBasicAuth(config.user, config.secret(config.password_env, secrets))
        if config.token_env:
            session.headers["Authorization"] = f"Bearer {config.secret(config.token_env, secrets)}"
        if config.tls is not None:
            session.verify = str(config.tls.ca) if config.tls.ca else True
            if config.tls.certificate and config.tls.key:
                session.cert = (str(config.tls.certificate), str(config.tls.key))
        self._client = DICOMwebClient(config.url, session=session, timeout=config.timeout_seconds)
        self._client.set_http_retry_params(retry=False)  # `patiently` does that
        self._pace = Pace(config.per_second)

    def check(self) -> None:
        """Search for one study; see `Archive.check`."""
        self._ask(lambda: self._client.search_for_studies(limit=1), "a search")

    def find(self, query: Query) -> list[RemoteSeries]:
        """Return the series that match."""
        wanted = {FILTERS[name]: getattr(query, name) for name in FILTERS if getattr(query, name)}
        fields = ["StudyDate", "SeriesDescription", "BodyPartExamined", "NumberOfSeriesRelatedInstances"]
        search = partial(self._client.search_for_series, search_filters=wanted, fields=fields, limit=PAGE)
        found: list[RemoteSeries] = []
        while True:
            page = self._ask(partial(search, offset=len(found)), "a search")
            found += [_series(item) for item in page]
            if len(page) < PAGE:
                return found

    def instances(self, series: RemoteSeries) -> list[str]:
        """Return the SOP instance UIDs of a series."""
        found = self._ask(
            lambda: self._client.search_for_instances(series.study_uid, series.series_uid, get_remaining=False),
            "listing a series",
        )
        return sorted({str(_value(item, "00080018")) for item in found})

    def fetch(self, series: RemoteSeries, folder: Path, there: Collection[str] = ()) -> int:
        """Write the instances that the folder lacks, but those that are ``there``; return how many that were."""
        count = 0
        wanted = [uid for uid in self.instances(series) if uid not in there]
        for uid, path in list(missing(folder, wanted, uid_of)):
            self._pace.wait()
            data = self._ask(
                lambda uid=uid: self._client.retrieve_instance(
                    series.study_uid, series.series_uid, uid, media_types=AS_STORED
                ),
                "fetching an image",
            )
            if str(data.get("SOPInstanceUID", "")) != uid:
                raise PacsError("the PACS sent another image than the one asked for; nothing of it was kept")
            keep(data, path)
            count += 1
        return count

    def send(self, paths: Sequence[Path], sent: Callable[[Path], object] | None = None) -> None:
        """Store files, one by one, so that a fault names few.

        Raises
        ------
        PacsError
            If the PACS refuses one.
        """
        for path in paths:
            self._pace.wait()
            data = pydicom.dcmread(path)
            answer = self._ask(lambda data=data: self._client.store_instances([data]), "storing an object")
            failed = answer.get("FailedSOPSequence") if answer is not None else None
            if failed:
                reason = failed[0].get("FailureReason")
                raise PacsError(f"the PACS refused {path.name} (failure reason {reason}); its own log says why")
            if sent is not None:
                sent(path)

    def _ask(self, work: Any, what: str) -> Any:
        def once() -> Any:
            try:
                return work()
            except requests.HTTPError as error:
                status = error.response.status_code if error.response is not None else 0
                if status in (408, 429, 502, 503, 504):
                    raise requests.ConnectionError(f"status {status}") from None
                hint = "; check user and password or the token" if status in (401, 403) else ""
                raise PacsError(f"the PACS answered {status} to {what}{hint}") from None

        return patiently(once, self.config.attempts, PASSING, what)


def uid_of(path: Path) -> str:
    """Return the SOP instance UID of a file, empty if it is not whole DICOM."""
    try:
        return str(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
    except (InvalidDicomError, AttributeError, OSError):
        return ""


def _series(item: dict[str, Any]) -> RemoteSeries:
    count = _value(item, "00201209")
    return RemoteSeries(
        study_uid=str(_value(item, "0020000D")),
        series_uid=str(_value(item, "0020000E")),
        modality=str(_value(item, "00080060") or ""),
        description=str(_value(item, "0008103E") or ""),
        body_part=str(_value(item, "00180015") or ""),
        date=str(_value(item, "00080020") or ""),
        instances=None if count is None else int(count),
    )


def _value(item: dict[str, Any], tag: str) -> Any:
    values = item.get(tag, {}).get("Value") or [None]
    return values[0]
