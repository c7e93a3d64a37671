"""What the command line exits with.

Exit codes: 0 done · 1 the server or the connection failed · 2 wrong usage or input · 3 some of a folder failed ·
130 interrupted, and the request cancelled.
"""

DONE, SERVER_FAILED, WRONG_INPUT, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
