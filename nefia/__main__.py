"""`python -m nefia`: the same as the command `nefia`."""

from nefia.cli import main

if __name__ == "__main__":
    main()
