# Breach: memory beyond the limit by small objects. Ends by MemoryError or by time.
# End: any
attempted()
chain = None
while True:
    chain = [chain]
