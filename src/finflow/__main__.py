"""`python -m finflow` is the `finflow` command."""

from finflow.cli import main

if __name__ == "__main__":
    main()
