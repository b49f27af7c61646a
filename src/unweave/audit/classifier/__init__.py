"""Did a classifier forget? Relative to models that hold the data and models retrained without it."""
