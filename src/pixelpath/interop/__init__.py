"""Interoperation: other people's models and formats, read and written."""
