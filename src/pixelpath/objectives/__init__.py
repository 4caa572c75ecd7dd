"""Objectives: what a run minimises, called as objective(student, average, batch, step)."""
