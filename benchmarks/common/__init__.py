"""What the benchmarks share. Nothing here imports torch or burnish before it is asked to measure."""
