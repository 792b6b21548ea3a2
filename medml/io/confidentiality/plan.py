"""What happens to each attribute of a SOP class under given options, worked out once per place in the data set."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom._dicom_dict import DicomDictionary

from medml.errors import Refusal
from medml.io.confidentiality.options import resolve
from medml.io.confidentiality.tables import attribute_rules, attribute_types
from medml.io.confidentiality.values import TEXTS

PIXEL_DATA = 0x7FE00010

# What gives pixels their place and value, kept in any image although its class does not list it (standard extended).
_IMAGE_EXTRAS = frozenset({
    0x00080008, 0x00180050, 0x00180088, 0x00181164, 0x00189075, 0x00189087, 0x00189089, 0x00200032, 0x00200037,
    0x00200100, 0x00200105,
})  # fmt: skip
# Written anew by the engine, whatever the source says.
REPLACED = frozenset({0x00120062, 0x00120063, 0x00120064, 0x00280303})
OPAQUE = frozenset({0x00282000})  # bytes of any content that are kept: the ICC profile
_STRINGS = TEXTS | {"AS", "DA", "DS", "DT", "IS", "TM", "UI"}


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What to do with one attribute in one place.

    Attributes
    ----------
    action : str
        D, Z, X, U, K or C as table E.1-1 has it; "" if the table does not list the attribute: then its value is kept
        as far as it has the form of its VR and its words are known.
    kind : int
        Type in the IOD, 3 if it has none.
    listed : bool
        Whether table E.1-1 lists the attribute.
    fallback : str
        What the Basic Profile does, where an option's cleaning leaves nothing.
    """

    tag: int
    keyword: str
    path: str
    vr: str
    vrs: frozenset[str]
    single: bool
    kind: int
    action: str
    fallback: str
    listed: bool


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The steps for one SOP class.

    Attributes
    ----------
    top : Level
    """

    sop_class: str
    options: tuple[str, ...]
    top: Level


class Level(dict[int, Step]):
    """The steps of one place in the data set, by tag; worked out when first asked for.

    Parameters
    ----------
    parent : int
        Tag of the sequence whose items these are; 0 at the top.
    path : str
        Keywords of the sequences above, each with a dot.
    """

    def __init__(
        self, types: dict[int, dict[int, int]], options: tuple[str, ...], parent: int = 0, path: str = ""
    ) -> None:
        super().__init__()
        self.types = types
        self.options = options
        self.parent = parent
        self.path = path
        self._below: dict[int, Level] = {}

    def __missing__(self, tag: int) -> Step:
        step = self[tag] = self._step(tag)
        return step

    def below(self, tag: int) -> Level:
        """Return the steps of a sequence's items."""
        level = self._below.get(tag)
        if level is None:
            level = self._below[tag] = Level(self.types, self.options, tag, f"{self.path}{self[tag].keyword}.")
        return level

    def required(self) -> dict[int, int]:
        """Return the attributes of this place that are of type 1 or 2, with their type."""
        return {tag: kind for tag, kind in self.types.get(self.parent, {}).items() if kind < 3}

    def _step(self, tag: int) -> Step:
        entry = DicomDictionary.get(tag)
        kind = self._kind(tag, entry[0] if entry else "")
        rule = attribute_rules().get(tag)
        if entry is None or tag & 0xFFFF == 0 or tag >> 16 in (0, 2) or tag in REPLACED:
            action = fallback = "X"
        elif rule is not None:
            action, fallback = resolve(rule, self.options, kind), resolve(rule, (), kind)
        else:
            action = fallback = "" if kind is not None else "X"
        vr, multiplicity, _, _, keyword = entry or ("UN", "1", "", "", f"{tag:08X}")
        names = tuple(vr.replace(" or ", " ").split())
        return Step(
            tag=tag,
            keyword=keyword,
            path=f"{self.path}{keyword}",
            vr=names[0],
            vrs=_accepted(names),
            single=multiplicity == "1",
            kind=kind or 3,
            action=action,
            fallback=fallback,
            listed=rule is not None,
        )

    def _kind(self, tag: int, vr: str) -> int | None:
        kind = self.types.get(self.parent, {}).get(tag)
        if kind is None and not self.parent and PIXEL_DATA in self.types[0] and tag not in attribute_rules():
            return 3 if (tag >> 16 == 0x0028 and vr not in ("SQ", "")) or tag in _IMAGE_EXTRAS else None
        return kind


def make_plan(sop_class: str, options: tuple[str, ...]) -> Plan:
    """Return the steps for a SOP class.

    Raises
    ------
    Refusal
        If nobody can say which attributes the class has.
    """
    if not sop_class:
        raise Refusal("missing_uid", "there is no SOPClassUID, so what the file may hold is unknown; export it again")
    types = attribute_types(sop_class)
    if types is None:
        raise Refusal(
            "unknown_sop_class",
            "a private or unknown SOP class, of which nobody can say what it may hold; leave the file out",
        )
    if sop_class == "1.2.840.10008.1.3.10":
        raise Refusal("dicomdir", "a directory of media (DICOMDIR), which lists names; it is not needed, leave it out")
    return Plan(sop_class, options, Level(types, options))


def _accepted(names: tuple[str, ...]) -> frozenset[str]:
    """Return the VRs in which a file may write an attribute of the dictionary's VR."""
    if names[0] in _STRINGS:
        return _STRINGS
    if names[0] in ("OB", "OW"):
        return frozenset({"OB", "OW"})
    if names[0] in ("US", "SS"):
        return frozenset({"US", "SS", "OW"}) if len(names) > 1 else frozenset(names)
    return frozenset(names)
