"""sevit-bench: what an SE-ResNet gains and loses against small Vision Transformers on small images."""

__version__ = "0.1.0"
