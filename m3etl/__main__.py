"""`python -m m3etl`: the same as the command `m3etl`."""

from m3etl.cli.main import main

if __name__ == "__main__":
    main()
