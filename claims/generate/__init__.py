"""Claims of the methods that draw better or faster."""
