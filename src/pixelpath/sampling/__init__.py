"""Sampling: from a start down the sigmas to images, as plain functions of any denoiser."""

from pixelpath.sampling.sampler import Sampler
from pixelpath.sampling.samplers import consistency, dpmpp_2m, euler, euler_ancestral, heun, heun_stochastic

__all__ = ["Sampler", "consistency", "dpmpp_2m", "euler", "euler_ancestral", "heun", "heun_stochastic"]
