import sys

sys.exit("configured wrongly")
