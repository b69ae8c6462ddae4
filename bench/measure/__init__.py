"""What a worker does: train, evaluate, count, time. Only this package and the loader of bench.data import torch."""
