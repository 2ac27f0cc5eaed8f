"""The watched folder: scans the inbox, claims drops, runs their jobs, and moves their originals.

`daemon` is the loop, `watcher` scans the inbox, `intake` takes drops from it, `processor` runs their jobs,
`originals` moves their files, and `requests` obeys people. Jobs go to `batch`: this package does not know
how a picture is made, and never loads torch.
"""
