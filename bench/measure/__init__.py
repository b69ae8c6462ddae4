"""What a worker does: train, evaluate, count, time. The only package that imports torch, with the loader of bench.data."""
