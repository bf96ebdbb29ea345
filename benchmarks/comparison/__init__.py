"""The whole comparison behind `tesseral compare`: every figure of ours beside every other code that is installed."""
