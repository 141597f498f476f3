# Breach: output without end is kept.
# End: too much output
attempted()
while True:
    print("passed " * 1000)
