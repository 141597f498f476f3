# Breach: it is not ended in time.
# End: timed out
attempted()
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
