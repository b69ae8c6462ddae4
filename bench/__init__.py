"""sevit-bench: what an SE-ResNet gains and loses against small Vision Transformers on small images."""
