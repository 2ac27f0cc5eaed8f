"""The commands, a module for each group. They read flags, call what does the work, and print what came of it.

With `main` they are all that prints or exits. They import what they need inside functions, so that `--help`
stays quick.
"""
