"""The command line: `python -m flowvae_tutorial --help`."""

from .experiments.commands import main

if __name__ == "__main__":
    main()
