"""The circumstances of a measurement: only distances of one protocol can be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pixelpath.errors import UserError
from pixelpath.evaluation.features import FeatureExtractor


@dataclass(frozen=True)
class Protocol:
    """The circumstances of a measurement, all JSON-ready.

    `real` and `generated` are counts of images; `labels` says how classes were chosen ("balanced", "none", ...); `images` says
    what the real images were converted to first ("8x8x1 uint8, as stored"); `resize` is the extractor's own; `steps`
    and `nfe` (network evaluations per image) describe the sampling, `seeds` the first and last seed of the samples.
    """

    real: int
    generated: int
    labels: str
    images: str
    resize: str
    extractor: str
    extractor_hash: str
    sampler: str | None = None
    steps: int | None = None
    nfe: int | None = None
    guidance: float | None = None
    seeds: tuple[int, int] | None = None

    def record(self, how: Mapping[str, Any] | None = None, /, **values: float | int | str | None) -> dict[str, Any]:
        """The named numbers with this protocol and `how` else they were measured; UserError for a number that is not finite."""
        broken = [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
        if broken:
            raise UserError(f"{', '.join(broken)} in features '{self.extractor}' is not finite: look for NaN in the samples.")
        protocol = asdict(self) | {"seeds": None if self.seeds is None else list(self.seeds)}
        return {**values, "protocol": protocol | dict(how or {})}


def protocol_of(extractor: FeatureExtractor, real: int, generated: int, labels: str, images: str) -> Protocol:
    """The protocol of features from `extractor`; dataclasses.replace adds how the images were sampled."""
    return Protocol(real, generated, labels, images, extractor.resize, extractor.name, extractor.hash)
