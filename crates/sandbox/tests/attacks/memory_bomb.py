# Breach: more memory than allowed.
attempt("at once", lambda: bytearray(2 << 30) and "got it")
pieces = []
try:
    while len(pieces) < 2048:
        pieces.append(bytearray(1 << 20))
except MemoryError:
    count = len(pieces)
    pieces.clear()
else:
    breach("2 GiB")
