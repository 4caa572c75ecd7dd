"""Sampling: from a start down the levels to images, as plain functions of any denoiser."""
