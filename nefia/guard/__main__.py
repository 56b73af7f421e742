"""`python -m nefia.guard`: see `launch`."""

import sys

from nefia.guard.launch import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
