"""What the numbers of evaluation.json, probe.json and samples.json are called on a page.

*Few* samples are as many as there are held-out images. The *floor* is what held-out images reach in their place.
"""

from __future__ import annotations

import re

NAMES = {
    # what was measured, and how
    "advice": "in words",
    "batch_size": "images at a time",
    "best_step": "step of the lowest held-out loss",
    "classes": "classes",
    "count": "images",
    "dtype": "type of values",
    "extractor": "features by",
    "extractor_hash": "their checksum",
    "few": "images on either side of the floor",
    "generated": "samples",
    "guidance": "guidance scale",
    "guidance_interval": "guided at sigmas",
    "guide_with": "guided against",
    "judged": "samples that were read",
    "labels": "classes of samples",
    "neighbours_among": "nearest neighbours among",
    "nfe": "network evaluations (NFE) an image",
    "pixelpath": "version of pixelpath",
    "real": "real images",
    "resize": "resizing for the features",
    "run": "run",
    "sampling": "How samples were made",
    "seconds": "seconds in all",
    "seconds_sampling": "seconds of sampling",
    "seeds": "first and last seed",
    "sigma": "noise level sigma",
    "start_check_nfe": "network evaluations (NFE) that checked the start",
    "start_residual_ratio": "start against denoiser (1 is agreement)",
    "start_sigma": "noise level sigma of the start",
    # distances
    "floor": "held-out images in their place (floor)",
    "frechet": "Frechet distance",
    "frechet_floor_of_few": "held-out images in their place (floor)",
    "frechet_floor_of_training": "training images in their place",
    "frechet_of_few": "Frechet distance of few samples",
    "kernel_distance": "kernel distance",
    "kernel_distance_std": "its standard deviation",
    "density_and_coverage": "Density and coverage",
    "precision_and_recall": "Precision and recall",
    "precision": "precision (samples among real images)",
    "recall": "recall (real images among samples)",
    # losses
    "gap": "gap",
    "gap_error": "standard error of the gap",
    "held_out": "held-out images",
    "held_out_error": "standard error of held-out images",
    "held_out_loss": "Denoising loss on held-out images",
    "loss": "mean squared error (model range)",
    "loss_gap": "Denoising loss on training and on held-out images",
    "noise_levels": "By noise level",
    "standard_error": "standard error",
    "training": "training images",
    "training_error": "standard error of training images",
    "z": "gap in standard errors",
    # copies
    "below": "as near as the nearest hundredth of held-out images",
    "below_error": "standard error of as near, by chance",
    "below_expected": "expected without copying",
    "closeness": "How near samples come to training images",
    "closer": "nearer to training than to as many held-out images (0.5 without copying)",
    "closer_error": "standard error of nearer, by chance",
    "copies": "Copies of training images",
    "duplicates": "samples that are exact copies of training images",
    "held_out_duplicates": "held-out images that are",
    "among": "out of",
    "end": "farthest or nearest",
    "extremes": "Samples and held-out images farthest from and nearest to training images",
    "image": "number",
    "drawn": "channels drawn",
    "hundredth": "nearest hundredth",
    "mirrored": "mirror images count too",
    "neighbours": "Distances to the nearest image",
    "pairs": "Samples nearest to training images",
    "tenth": "nearest tenth",
    "training_distance": "distance to the training image",
    "training_mirrored": "training image mirrored",
    "training_name": "nearest training image",
    "training_number": "number of the training image",
    "held_out_distance": "distance to the held-out image",
    "held_out_mirrored": "held-out image mirrored",
    "held_out_name": "nearest held-out image",
    "held_out_number": "number of the held-out image",
    # pixel values
    "error": "error",
    "frequent": "Most frequent values",
    "half_transparent": "half-transparent pixels",
    "pixel_values": "Values of pixels",
    "probability": "quantile",
    "quantiles": "Quantiles of values",
    "share_held_out": "share in held-out images",
    "share_samples": "share in samples",
    "share_training": "share in training images",
    "spectrum": "spectrum, error",
    "spectrum_floor_of_few": "spectrum, error of held-out images (floor)",
    "spectrum_of_few": "spectrum, error of few",
    "total_variation": "histogram, total variation",
    "total_variation_floor_of_few": "histogram, total variation of held-out images (floor)",
    "total_variation_of_few": "histogram, total variation of few",
    "training_std": "standard deviation of training values",
    "values_of_a_channel": "values of a channel",
    "wasserstein": "Wasserstein distance of values",
    "wasserstein_floor_of_few": "Wasserstein distance of held-out images (floor)",
    "wasserstein_of_few": "Wasserstein distance of few",
    "zeros_held_out": "zeros in held-out images",
    "zeros_samples": "zeros in samples",
    "zeros_training": "zeros in training images",
    # features
    "linear": "linear probe",
    "nearest": "nearest neighbours",
    "test_count": "test images",
    "train_count": "training images",
}


def name_of(key: str) -> str:
    """What a number is called; one without a name is called by its key."""
    return NAMES.get(key, key.replace("_", " "))


def short(name: str) -> str:
    """The name of an image as a label: the last part of a path; a time in two lines, the day and the hour."""
    last = name.rpartition("/")[2]
    return last.replace("T", "\n", 1) if re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+", last) else last
