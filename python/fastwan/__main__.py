"""`python -m fastwan`: the program, as the command `fastwan` starts it, after torch and the operators are loaded."""
from fastwan_program import main

main()
