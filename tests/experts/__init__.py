"""Tests of the family experts."""
