"""Compare SE-ResNets with small Vision Transformers. Example: python run_bench.py --models seresnet,vit_tiny"""

if __name__ == "__main__":
    import sys  # here, not above: every child process loads this file again and needs nothing of it

    from bench.cli.main import main

    sys.exit(main())
