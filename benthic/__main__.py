"""`python -m benthic`, which is also how torchrun starts it."""

from benthic.cli import main

if __name__ == "__main__":
    main()
