"""The command line: commands, displays, the log, checks of this machine, signals.

Only its commands print or exit, and nothing imports this package. It decides nothing about pictures.
"""
