# Breach: it is not ended in time.
# End: timed out
import re

attempted()
re.match("(a+)+$", "a" * 60 + "b")
