"""What is typed and shown: commands, live display, reports of this machine, log files, signals.

Nothing else prints or exits, and nothing else imports this package. It decides nothing about pictures.
"""
