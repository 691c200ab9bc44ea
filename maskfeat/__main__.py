"""`python -m maskfeat`, which torchrun -m needs."""

from maskfeat.console import main

if __name__ == "__main__":
    main()
