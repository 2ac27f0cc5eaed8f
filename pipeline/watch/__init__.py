"""The watched folder: what lies in the inbox, when it may be taken, what becomes of it, and who is told.

It makes jobs and hands them to `batch`. It does not know how a picture is made, and never loads torch.
"""
