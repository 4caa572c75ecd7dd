"""A number's protocol goes to JSON whole."""

import json
from dataclasses import replace

import pytest

from pixelpath.evaluation.features import Pixels
from pixelpath.evaluation.protocol import protocol_of


def test_a_record_carries_everything_to_json() -> None:
    protocol = protocol_of(Pixels(), real=1700, generated=200, labels="balanced", images="8x8x1 uint8, as stored")
    protocol = replace(protocol, sampler="heun", steps=32, nfe=63, guidance=1.5, seeds=(0, 199))
    record = protocol.record(frechet=1.5, floor=None)
    assert json.loads(json.dumps(record)) == record
    assert record == {
        "frechet": 1.5,
        "floor": None,
        "protocol": {
            "real": 1700,
            "generated": 200,
            "labels": "balanced",
            "images": "8x8x1 uint8, as stored",
            "resize": "none",
            "extractor": "pixels",
            "extractor_hash": Pixels().hash,
            "sampler": "heun",
            "steps": 32,
            "nfe": 63,
            "guidance": 1.5,
            "seeds": [0, 199],
        },
    }


def test_a_number_that_is_not_finite_is_said() -> None:
    protocol = protocol_of(Pixels(), real=2, generated=2, labels="none", images="8x8x1 uint8, as stored")
    with pytest.raises(ValueError, match="recall in features 'pixels' is not finite"):
        protocol.record(precision=1.0, recall=float("nan"))
