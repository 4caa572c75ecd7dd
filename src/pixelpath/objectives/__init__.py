"""Objectives: what a run minimises, called as objective(student, ema, batch, progress)."""
