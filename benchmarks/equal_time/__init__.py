"""Image generators of different makes, trained for the same time on the same data, and measured alike.

A *system* is a model with its training and its sampler. A *job* is one system trained on one data set for so many minutes from
one seed; it lies in a folder of its own. A *judge* measures samples of any origin. `python -m benchmarks.equal_time --help`.
"""
