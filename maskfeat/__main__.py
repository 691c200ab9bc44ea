"""`python -m maskfeat`, which torchrun -m needs."""

from maskfeat.cli import main

if __name__ == "__main__":
    main()
