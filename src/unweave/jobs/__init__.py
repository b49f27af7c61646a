"""Jobs: chains of stages, resumable, callable from Python; the command line only parses, calls and shows."""
