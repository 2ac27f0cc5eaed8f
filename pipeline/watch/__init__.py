"""The watched folder: what lies in the inbox, when it is taken, what becomes of it, and what is said of it.

`daemon` is the loop, `watcher` scans the inbox, `intake` takes drops from it, `processor` runs their jobs,
and `originals` moves their files. Jobs go to `batch`: this package does not know how a picture is made, and
never loads torch.
"""
