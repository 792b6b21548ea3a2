"""A PACS by DICOM's own protocol: C-FIND to find, C-GET or C-MOVE to fetch, C-STORE to send (PS3.4)."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.presentation import StoragePresentationContexts, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import from a table
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from medml.io.pacs.archive import Pace, PacsError, Query, RemoteSeries, keep, missing, patiently
from medml.io.pacs.config import PacsConfig, Tls
from medml.io.pacs.syntaxes import SYNTAXES
from medml.io.pacs.web import uid_of

PENDING = (0xFF00, 0xFF01)
SUCCESS = 0x0000
REFUSED = 0xA700
# PS3.8 allows 128 contexts in an association, one of which is the C-GET itself.
MOST_CONTEXTS = 127


class Fault(Exception):
    """No association, or one that broke: may pass."""


class DimseArchive:
    """A PACS that speaks DICOM."""

    def __init__(self, config: PacsConfig) -> None:
        self.config = config
        self._pace = Pace(config.per_second)

    def check(self) -> None:
        """C-ECHO; see `Archive.check`."""

        def ask() -> None:
            with self._association([build_context(Verification)]) as association:
                _check(association.send_c_echo(), "a C-ECHO")

        patiently(ask, self.config.attempts, (Fault,), "a C-ECHO")

    def find(self, query: Query) -> list[RemoteSeries]:
        """Return the series that match; studies first, as PS3.4 asks for a study's UID at the level of series."""
        wanted = Dataset()
        wanted.QueryRetrieveLevel = "STUDY"
        wanted.StudyInstanceUID, wanted.StudyDate = query.study_uid, query.dates
        wanted.ModalitiesInStudy = query.modality
        wanted.PatientID, wanted.AccessionNumber = query.patient, query.accession
        found = []
        for study in self._answers(wanted):
            asked = Dataset()
            asked.QueryRetrieveLevel = "SERIES"
            asked.StudyInstanceUID, asked.SeriesInstanceUID = study.StudyInstanceUID, ""
            asked.Modality, asked.SeriesDescription = query.modality, query.description
            asked.BodyPartExamined = query.body_part
            asked.NumberOfSeriesRelatedInstances = None
            date = str(study.get("StudyDate", "") or "")
            found += [replace(_series(answer), date=date) for answer in self._answers(asked)]
        return found

    def instances(self, series: RemoteSeries) -> list[str]:
        """Return the SOP instance UIDs of a series."""
        asked = _series_key(series)
        asked.QueryRetrieveLevel, asked.SOPInstanceUID = "IMAGE", ""
        return sorted({str(answer.SOPInstanceUID) for answer in self._answers(asked)})

    def fetch(self, series: RemoteSeries, folder: Path, there: Collection[str] = ()) -> int:
        """Write the instances that the folder lacks, but those that are ``there``; return how many that were.

        A folder that has some gets the others one by one.
        """
        uids = self.instances(series)
        paths = dict(missing(folder, [uid for uid in uids if uid not in there], uid_of))
        if not paths:
            return 0
        whole = len(paths) == len(uids)
        for some in [list(paths)] if whole else [[uid] for uid in paths]:
            wanted = _series_key(series)
            wanted.QueryRetrieveLevel = "SERIES" if whole else "IMAGE"
            if not whole:
                wanted.SOPInstanceUID = some[0]
            self._retrieve(wanted, paths)
        lost = sum(not path.is_file() for path in paths.values())
        if lost:
            raise PacsError(f"the PACS sent {len(paths) - lost} of {len(paths)} images; fetch again for the others")
        return len(paths)

    def send(self, paths: Sequence[Path], sent: Callable[[Path], object] | None = None) -> None:
        """Store files in one association; after a fault, in another, those that were not acknowledged.

        Raises
        ------
        PacsError
            If the PACS refuses one, or will not take its kind.
        """
        headers = {path: pydicom.dcmread(path, stop_before_pixels=True) for path in paths}
        kinds = {(str(h.SOPClassUID), str(h.file_meta.TransferSyntaxUID)) for h in headers.values()}
        contexts = [build_context(sop_class, [syntax]) for sop_class, syntax in sorted(kinds)]

        left = list(paths)

        def store() -> None:
            with self._association(contexts) as association:
                accepted = {
                    (str(context.abstract_syntax), str(context.transfer_syntax[0]))
                    for context in association.accepted_contexts
                }
                if kinds - accepted:
                    raise PacsError(
                        f"the PACS takes {len(kinds & accepted)} of {len(kinds)} kinds of object; nothing was sent"
                    )
                while left:
                    self._pace.wait()
                    status = association.send_c_store(pydicom.dcmread(left[0]))
                    _check(status, f"storing {left[0].name}")
                    stored = left.pop(0)
                    if sent is not None:
                        sent(stored)

        patiently(store, self.config.attempts, (Fault,), "storing objects")

    def _answers(self, wanted: Dataset) -> list[Dataset]:
        model = StudyRootQueryRetrieveInformationModelFind

        def ask() -> list[Dataset]:
            found = []
            with self._association([build_context(model)]) as association:
                for status, answer in association.send_c_find(wanted, model):
                    _check(status, "a search", more=PENDING)
                    if status.Status in PENDING and answer is not None:
                        found.append(answer)
            return found

        return patiently(ask, self.config.attempts, (Fault,), "a search")

    def _retrieve(self, wanted: Dataset, paths: dict[str, Path]) -> None:
        retrieve = self._get if self.config.retrieve == "get" else self._move
        patiently(lambda: retrieve(wanted, paths), self.config.attempts, (Fault,), "fetching images")

    def _get(self, wanted: Dataset, paths: dict[str, Path]) -> None:
        model = StudyRootQueryRetrieveInformationModelGet
        classes = [str(c.abstract_syntax) for c in StoragePresentationContexts][:MOST_CONTEXTS]
        contexts = [build_context(model), *(build_context(uid, list(SYNTAXES)) for uid in classes)]
        roles = [build_role(uid, scp_role=True) for uid in classes]
        handlers = [(evt.EVT_C_STORE, self._keeper(paths))]
        with self._association(contexts, roles=roles, handlers=handlers) as association:
            for status, _ in association.send_c_get(wanted, model):
                _check(status, "fetching images", more=PENDING)

    def _move(self, wanted: Dataset, paths: dict[str, Path]) -> None:
        model = StudyRootQueryRetrieveInformationModelMove
        with listening(self.config, self._keeper(paths)), self._association([build_context(model)]) as association:
            for status, _ in association.send_c_move(wanted, self.config.move_to, model):
                _check(status, "fetching images", more=PENDING)

    def _keeper(self, paths: dict[str, Path]) -> Callable[[Any], int]:
        """Return what takes an image that comes in; only those asked for are kept."""

        def store(event: Any) -> int:
            data = event.dataset
            data.file_meta = event.file_meta
            path = paths.get(str(data.get("SOPInstanceUID", "")))
            if path is None:
                return SUCCESS  # there already
            self._pace.wait()
            try:
                keep(data, path)
            except OSError:
                return REFUSED
            return SUCCESS

        return store

    @contextmanager
    def _association(self, contexts: list[Any], *, roles: Any = None, handlers: Any = None) -> Iterator[Any]:
        config = self.config
        entity = AE(ae_title=config.calling_aet)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = config.timeout_seconds
        entity.connection_timeout = config.timeout_seconds
        association = entity.associate(
            config.host,
            config.port,
            contexts=contexts,
            ae_title=config.called_aet,
            ext_neg=roles or [],
            evt_handlers=handlers or [],
            tls_args=None if config.tls is None else (_client_tls(config.tls), config.host),
        )
        if association.is_rejected:
            raise PacsError(
                f"the PACS rejected us as {config.calling_aet!r} calling {config.called_aet!r}; it must know both names"
            )
        if not association.is_established:
            raise Fault
        try:
            yield association
        except RuntimeError:  # what pynetdicom raises where the other side went away between two requests
            if association.is_established:
                raise
            raise Fault from None
        finally:
            association.release()


@contextmanager
def listening(config: PacsConfig, store: Callable[[Any], int]) -> Iterator[None]:
    """Take images that a PACS sends to us, on ``listen_host`` and ``listen_port``, while the block runs."""
    entity = AE(ae_title=config.move_to)
    for context in StoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), list(SYNTAXES))
    server = entity.start_server(
        (config.listen_host, config.listen_port),
        block=False,
        evt_handlers=[(evt.EVT_C_STORE, store)],
        ssl_context=None if config.tls is None else server_tls(config.tls),
    )
    try:
        yield
    finally:
        if server is not None:
            server.shutdown()


def _check(status: Dataset, what: str, *, more: tuple[int, ...] = ()) -> None:
    if not status or "Status" not in status:
        raise Fault
    code = int(status.Status)
    # Warnings (0xBxxx) come with a result that was kept or sent, possibly with coerced elements.
    if code == SUCCESS or code in more or 0xB000 <= code <= 0xBFFF:
        return
    raise PacsError(f"the PACS answered status 0x{code:04X} to {what}; its own log says why")


def _series_key(series: RemoteSeries) -> Dataset:
    key = Dataset()
    key.StudyInstanceUID, key.SeriesInstanceUID = series.study_uid, series.series_uid
    return key


def _series(answer: Dataset) -> RemoteSeries:
    count = answer.get("NumberOfSeriesRelatedInstances")
    return RemoteSeries(
        study_uid=str(answer.StudyInstanceUID),
        series_uid=str(answer.SeriesInstanceUID),
        modality=str(answer.get("Modality", "") or ""),
        description=str(answer.get("SeriesDescription", "") or ""),
        body_part=str(answer.get("BodyPartExamined", "") or ""),
        instances=None if count in (None, "") else int(count),
    )


def _client_tls(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
    if tls.certificate and tls.key:
        context.load_cert_chain(tls.certificate, tls.key)
    return context


def server_tls(tls: Tls) -> ssl.SSLContext:
    """Return how we encrypt what we take; who sends it must prove who it is where ``tls.ca`` says by what."""
    if tls.certificate is None or tls.key is None:
        raise PacsError("tls: to take images we need a certificate and key of our own; set tls.certificate and tls.key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=None if tls.ca is None else str(tls.ca))
    context.load_cert_chain(tls.certificate, tls.key)
    if tls.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
