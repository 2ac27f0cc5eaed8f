"""Hooks: commands of the user that are run beside the work when something happens.

It knows commands and the objects they are given, and nothing about jobs. It never raises into the work.
"""
