"""Claims of the family experts."""
