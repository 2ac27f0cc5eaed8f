"""The commands, a module for each group. They read flags, call the other packages, and print the result.

With `main` they are all that prints or exits. They import what they need inside functions, so that `--help`
stays quick.
"""
