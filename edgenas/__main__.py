"""``python -m edgenas``: the same as the command ``edgenas``."""

from edgenas.cli import main

if __name__ == "__main__":
    main()
