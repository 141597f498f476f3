# Breach: it takes longer than it may, or more memory.
# End: any
attempted()
number = 7
while True:
    number *= number
