"""The mathematics: losses, targets, masks, optimisers, pyramid, and the session that keeps them loaded.

Tensors go in and come out. It does not know of jobs, and of files only its own cache and checkpoints.
"""
