"""One page on why a model said what it said about one scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medml.explain.checks import Checks, check_map
from medml.explain.layers import feature_maps
from medml.explain.maps import explain_map
from medml.explain.subject import Subject, subject_of
from medml.geometry import spacing_of
from medml.networks.predictor import Predictor
from medml.pages.content import Card, Cell, Picture, Section, Table, Value, show
from medml.pages.heat import heat_png, layers_png, uncertainty_picture
from medml.pages.shell import render
from medml.records.batch import Prediction
from medml.records.scan import Volume

METHODS = ("gradcam", "occlusion", "integrated_gradients")
TITLES = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "occlusion": "Occlusion",
    "integrated_gradients": "Integrated gradients",
}
HOW = (
    "Bright is where the class's score comes from. A map is no proof: read it with the checks below it, and with the "
    "image. Fresh weights: the same network untrained must give another map (rank correlation at most 0.5 either way). "
    "Deletion and insertion: the class's mean probability while voxels are set to the image's mean, or shown, in the "
    "map's order; deletion should be lower and insertion higher than in random order."
)

UNSURE = (
    "Entropy of the label probabilities. Where the model has several members or looks at mirrored views, their "
    "disagreement is shown beside it: what more training data might resolve, while the rest lies in the image."
)


def explain_scan(
    folder: Path,
    predictor: Predictor,
    volume: Volume,
    *,
    name: str,
    model: str,
    target: int | None = None,
    methods: Sequence[str] = METHODS,
) -> tuple[Path, dict[str, Checks]]:
    """Explain one volume: ``explanation.html`` with maps, checks and layers.

    Parameters
    ----------
    name : str
        How the page calls the scan: its id, a private name.
    target : int
        Label value; None: the likeliest class, or the largest structure found.

    Returns
    -------
    Path, dict
        The page; checks by method.
    """
    subject = subject_of(predictor, volume, target)
    label = subject.plan.labels[subject.target]
    maps = {method: explain_map(subject, method) for method in methods}
    checks = {method: check_map(subject, method, values) for method, values in maps.items()}
    said = predictor.predict(volume, detailed=True)
    share = _share(subject, said)
    unsure = uncertainty_picture(volume, said, name=name, modality=subject.plan.modality)
    page = render(
        "page.html",
        folder / "explanation.html",
        title=f"Why {label}?",
        kicker=f"Explanation · {model} · scan {name}",
        lead=f"The model gives {label} a probability of {share:.3f} on this image.",
        cards=[_card(TITLES[method], found) for method, found in checks.items()],
        sections=[
            Section("What mattered", [HOW], [_table(checks)], [map_picture(volume, subject, maps)]),
            *([Section("Where the model is unsure", [UNSURE], pictures=[unsure])] if unsure else []),
            Section(
                "Layer by layer",
                ["From edges over shapes to parts: each row is a deeper layer, which sees more of the image at once."],
                pictures=[_layers(subject)],
            ),
        ],
    )
    return page, checks


def map_picture(volume: Volume, subject: Subject, maps: Mapping[str, np.ndarray]) -> Picture:
    """Return the image with each map (I, J, K) laid over it."""
    heats = {TITLES[method]: subject.on_volume(values) for method, values in maps.items()}
    spacing = spacing_of(volume.affine) if volume.geometry == "mm" else None
    png = heat_png(volume.voxels, heats, spacing_mm=spacing, modality=subject.plan.modality)
    label = subject.plan.labels[subject.target]
    names = ", ".join(heats)
    return Picture(
        png, f"What spoke for {label}: {names}. Slices through the peak of the first map.", kind="image", wide=True
    )


def checked_picture(name: str, volume: Volume, *, predictor: Predictor, method: str = "gradcam") -> Picture:
    """Return the map of the likeliest class over one volume, with the verdict of its checks in the caption.

    Where the map names no place (Grad-CAM's of a class that is known by what lacks), occlusion is asked instead.

    Parameters
    ----------
    name : str
        How the caption calls the scan: its id, a private name.
    """
    subject = subject_of(predictor, volume)
    values = explain_map(subject, method)
    if not np.ptp(values):
        values, method = explain_map(subject, "occlusion"), "occlusion"
    checks = check_map(subject, method, values)
    verdict = "passes its checks" if checks.believable else f"do not rely on it: {_why(checks)}"
    picture = map_picture(volume, subject, {method: values})
    share = _share(subject, predictor.predict(volume))
    caption = f"{name}, {subject.plan.labels[subject.target]} {share:.2f}. {TITLES[method]}: {verdict}."
    return replace(picture, caption=caption)


def _share(subject: Subject, said: Prediction) -> float:
    """Return the probability that the model gives to what is explained: a class's as it is reported, calibrated."""
    if said.probabilities is None:
        return float(subject.probability(subject.image))
    return float(said.probabilities[subject.target])


def _layers(subject: Subject) -> Picture:
    layers = feature_maps(subject)
    rows = {
        f"Layer {n} of {len(layers)}: 1 voxel is {' x '.join(map(str, layer.voxels))} of the image": layer.maps
        for n, layer in enumerate(layers, start=1)
    }
    return Picture(layers_png(rows), "The feature maps that differ most within the image.", kind="image", wide=True)


def _card(title: str, checks: Checks) -> Card:
    verdict = "passes its checks" if checks.believable else "do not rely on it"
    return Card(title, verdict, _why(checks), "good" if checks.believable else "warn")


def _why(checks: Checks) -> str:
    if checks.flat:
        return "it is empty: no place in the image speaks for the class"
    lost = []
    if not checks.depends_on_weights:
        lost.append("an untrained network gives the same map")
    if not checks.names_what_matters:
        lost.append("what it names matters no more than random voxels")
    return "; ".join(lost)


def _table(checks: Mapping[str, Checks]) -> Table:
    rows: list[list[Value]] = [
        [
            TITLES[method],
            Cell(show(found.alike), "" if found.depends_on_weights else "warn"),
            found.deletion,
            found.random_deletion,
            found.insertion,
            found.random_insertion,
            Cell("yes" if found.believable else "no", "good" if found.believable else "warn"),
        ]
        for method, found in checks.items()
    ]
    columns = ["Map", "Alike with fresh weights", "Deletion", "random", "Insertion", "random", "Believable"]
    return Table(columns, rows)
