"""What a model measured as a DICOM structured report: TID 1500, volumes linked to the segments of a SEG."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from medml.io.dicom_sources import SourceImages
from medml.io.seg_write import MANUFACTURER, PRIVATE_SCHEME, label_code
from medml.records.labels import Author, LabelMeaning, Measure

SERIES_NUMBER = 9002
REPORT = Code("126000", "DCM", "Imaging Measurement Report")
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
PROBABILITY = Code("PROBABILITY", PRIVATE_SCHEME, "Probability of the class")
ONE = Code("1", "UCUM", "no units")
MILLILITRE = Code("mL", "UCUM", "milliliter")
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
PROCEDURES = {
    "CT": Code("77477000", "SCT", "Computed tomography"),
    "MR": Code("113091000", "SCT", "Magnetic resonance imaging"),
    "PT": Code("82918005", "SCT", "Positron emission tomography"),
    "US": Code("16310003", "SCT", "Ultrasonography"),
}
RADIOGRAPHY = Code("168537006", "SCT", "Plain radiography")
IMAGING = Code("363679005", "SCT", "Imaging")


def measurement_report(
    measures: Sequence[Measure],
    sources: SourceImages,
    labels: Mapping[int, LabelMeaning],
    author: Author,
    *,
    uids: tuple[str, str],
    device_uid: str,
    segments: Dataset | None = None,
    accepted_by: str = "",
) -> Dataset:
    """Return a Comprehensive 3D SR in the study of its source.

    Parameters
    ----------
    measures : sequence of Measure
        A label without any is not reported.
    uids : tuple of str
        SeriesInstanceUID and SOPInstanceUID.
    device_uid : str
        Names the model as an observer.
    segments : Dataset or None
        The SEG that volumes and means are of; None for a classifier, whose probabilities are of the images.
    accepted_by : str
        The person who looked at the result and accepted it; without one the report is unverified and preliminary.
    """
    image = sources.images[0]
    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=device_uid, name=author.name[:64], manufacturer_name=MANUFACTURER, model_name=author.version[:64]
        ),
    )
    numbers = {value: number for number, value in enumerate(sorted(labels), start=1)}
    groups = [
        _group(value, number, measures, sources, labels[value], author, segments, uids[1])
        for value, number in numbers.items()
        if any(measure.label == value for measure in measures)
    ]
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_procedure(str(image.get("Modality", ""))),
        imaging_measurements=groups,
        title=REPORT,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*unlikely to represent the intended person name.*")
        data = hd.sr.Comprehensive3DSR(
            evidence=[*sources.images, *([] if segments is None else [segments])],
            content=content[0],
            series_instance_uid=uids[0],
            series_number=SERIES_NUMBER,
            sop_instance_uid=uids[1],
            instance_number=1,
            manufacturer=MANUFACTURER,
            is_complete=True,
            is_final=bool(accepted_by),
            is_verified=bool(accepted_by),
            verifying_observer_name=accepted_by or None,
            verifying_organization="medml" if accepted_by else None,
        )
    data.SeriesDescription = f"{author.name} {author.version} (research)"[:64]
    data.ManufacturerModelName = author.name[:64]
    data.SoftwareVersions = author.version[:64]
    return data


def _group(
    value: int,
    number: int,
    measures: Sequence[Measure],
    sources: SourceImages,
    meaning: LabelMeaning,
    author: Author,
    segments: Dataset | None,
    sop_uid: str,
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations | hd.sr.MeasurementsAndQualitativeEvaluations:
    mine = [_measurement(measure) for measure in measures if measure.label == value]
    algorithm = hd.sr.AlgorithmIdentification(name=author.name[:64], version=author.version)
    if segments is None:
        return hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(
                uid=generate_uid(entropy_srcs=[sop_uid, str(number)]), identifier=meaning.name[:64]
            ),
            finding_type=label_code(meaning),
            algorithm_id=algorithm,
            measurements=mine,
            source_images=[
                hd.sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)
                for image in sources.images
            ],
        )
    item = next(item for item in segments.SegmentSequence if item.SegmentNumber == number)
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=str(item.TrackingUID), identifier=meaning.name[:64]),
        # A segment that was not found has no frames, so the series is named and not its single images.
        referenced_segment=hd.sr.ReferencedSegment(
            segments.SOPClassUID,
            segments.SOPInstanceUID,
            number,
            source_series=hd.sr.SourceSeriesForSegmentation(sources.images[0].SeriesInstanceUID),
        ),
        finding_type=label_code(meaning),
        algorithm_id=algorithm,
        measurements=mine,
    )


def _measurement(measure: Measure) -> hd.sr.Measurement:
    if measure.kind == "volume":
        return hd.sr.Measurement(name=codes.SCT.Volume, value=measure.value, unit=MILLILITRE)
    if measure.kind == "mean":
        return hd.sr.Measurement(name=ATTENUATION, value=measure.value, unit=HOUNSFIELD, derivation=codes.SCT.Mean)
    return hd.sr.Measurement(name=PROBABILITY, value=measure.value, unit=ONE)


def _procedure(modality: str) -> Code:
    if modality in ("CR", "DX", "MG", "RF", "XA"):
        return RADIOGRAPHY
    return PROCEDURES.get(modality, IMAGING)
