"""What `benchmarks/gpu.py` measures, and how: one file for each noun."""
