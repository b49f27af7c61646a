"""Kinds of models that are no task: found by structure, not by class name."""
