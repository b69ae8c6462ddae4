"""Compare SE-ResNets with small Vision Transformers. Example: python run_bench.py --models seresnet,vit_tiny"""

import sys

from bench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
