"""Small worlds made on the spot, and small nets: for defaults, tests, claims and benchmarks alike."""
