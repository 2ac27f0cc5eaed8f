"""VGG-19, its small copy that comes with the package, and where weights come from.

It does not know what its features are used for.
"""
