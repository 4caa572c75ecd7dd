"""What is known of images besides their values: the kind of file they came from, names, units, and what means "not measured".

A run keeps the metadata of its data, so that its samples can be written as the data were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

SampleFormat = Literal["png", "tiff", "geotiff", "npy", "netcdf", "hdf5", "zarr", "nifti"]
"""The kinds of files that samples are written as; PNG stands for all picture files.

DICOM is none on purpose: a generated picture must never be mistaken for a patient's.
"""
Format = SampleFormat | Literal["dicom"]
"""The kinds of files that images come from."""
RARE = ("unmeasured", "south_up", "described")  # of metadata as JSON, left out where there are none


@dataclass(frozen=True)
class Described:
    """What a store says of a variable or a coordinate in words: its attributes of these names, "" where it has none."""

    long_name: str = ""
    standard_name: str = ""

    @property
    def attributes(self) -> dict[str, str]:
        """Those that it has."""
        return {name: value for name, value in self.__dict__.items() if value}


@dataclass(frozen=True)
class Axis:
    """The coordinates along the rows or the columns of all images: a name, a value per pixel, their units and their words."""

    name: str
    values: tuple[float, ...]
    units: str = ""
    described: Described = Described()


@dataclass(frozen=True)
class Metadata:
    """What is known of the images of a source besides shape, dtype and classes."""

    format: Format = "npy"
    """The kind of file that the images came from."""
    variable: str = ""
    """The data set or variable of a store."""
    channels: tuple[str, ...] = ()
    """The names of the channels, or none."""
    units: str = ""
    """The units of the values, like mm/h or HU, or none."""
    nodata: float | None = None
    """The value that means "not measured" (NaN for NaN); None if every value is a measurement."""
    photographs: bool = False
    """Whether these are 8-bit pictures of 1, 3 or 4 channels, whose colours may be jittered."""
    alpha: Literal["", "straight", "premultiplied"] = ""
    """Whether colours are multiplied by their alpha channel, the fourth; "" if there is none."""
    axes: tuple[Axis, ...] = ()
    """The coordinates along rows and columns, in this order, or none."""
    channel_units: tuple[str, ...] = ()
    """The units of every channel where they differ, or none."""
    unmeasured: str = ""
    """Where no image has a value, as `data.unmeasured` writes it; "" if nowhere."""
    south_up: bool = False
    """Whether the first row of every image is its southernmost, by the data's own coordinate: pictures then show it last."""
    described: tuple[Described, ...] = ()
    """The words of every variable in `variable`, or none."""

    def called(self, channel: int, count: int) -> str:
        """A channel of so many by its name, with its units if they are known: "rain (mm/h)"; "" if nothing is known of it."""
        units = self.units_of(channel)
        number = f"channel {channel} of {count}" if count > 1 else self.variable
        name = self.channels[channel] if channel < len(self.channels) else number
        return f"{name} ({units})" if name and units else name or units

    def units_of(self, channel: int) -> str:
        """The units of a channel, or none."""
        return self.channel_units[channel] if channel < len(self.channel_units) else self.units

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, for a JSON file."""
        nodata = None if self.nodata is None else "nan" if math.isnan(self.nodata) else self.nodata
        axes = [
            {"name": axis.name, "values": list(axis.values), "units": axis.units, **axis.described.attributes}
            for axis in self.axes
        ]
        words = {"channels": list(self.channels), "channel_units": list(self.channel_units)}
        described = [each.attributes for each in self.described]
        found = {**self.__dict__, **words, "described": described, "nodata": nodata, "axes": axes}
        return {name: each for name, each in found.items() if each or name not in RARE}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Metadata:
        """The metadata of `to_json`."""
        nodata = None if values["nodata"] is None else float(values["nodata"])
        axes = tuple(Axis(axis["name"], tuple(axis["values"]), axis["units"], _described(axis)) for axis in values["axes"])
        words: dict[str, Any] = {name: tuple(values.get(name, ())) for name in ("channels", "channel_units")}
        words["described"] = tuple(map(_described, values.get("described", ())))
        return cls(**{**values, **words, "nodata": nodata, "axes": axes})


def _described(attributes: Mapping[str, Any]) -> Described:
    return Described(attributes.get("long_name", ""), attributes.get("standard_name", ""))
