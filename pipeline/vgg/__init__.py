"""VGG-19 and its small copy, which come with the package, and networks of the user's own.

It does not know what its features are used for.
"""
