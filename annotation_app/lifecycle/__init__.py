"""What follows from what: a closed batch asks for training, a finished stage for the next one.

Each step is one transaction, so a process that dies between two steps leaves a row that says what
is still to do; the periodic tasks take it from there.
"""
