"""Audit of language models that were to forget texts."""
