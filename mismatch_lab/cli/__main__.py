"""`python -m mismatch_lab.cli`."""

from mismatch_lab.cli.app import main

if __name__ == "__main__":
    main()
