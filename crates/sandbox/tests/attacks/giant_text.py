# Breach: it takes longer than it may, or more memory.
text = "x"
try:
    while True:
        text += text
except MemoryError:
    pass
