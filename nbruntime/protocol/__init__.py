"""What a client and a server exchange: parameters, events, errors.

Floor 1: the standard library only. Both the clients and the embedded server use it.
"""
