"""Models: networks given a meaning."""
