"""Warm starts of runs and of other models: how a density is found, judged and kept."""
