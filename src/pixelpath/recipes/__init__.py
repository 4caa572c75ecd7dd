"""Recipes: complete runs as values; one function per run, sizes as a table."""
