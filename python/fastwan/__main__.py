"""`python -m fastwan` and the command `fastwan` of the wheel: runs the program that the wheel carries."""
import os
import pathlib
import sys


def main():
    program = pathlib.Path(__file__).parent / "bin" / "fastwan"
    os.execv(program, [str(program), *sys.argv[1:]])


if __name__ == "__main__":
    main()
