"""``python -m fgunlearn``: the command line."""

from fgunlearn.cli import main

if __name__ == "__main__":  # worker processes import this file under another name
    main()
