"""Measurements that others can repeat: `make bench`. Everything is measured in one run, and claims are ratios."""
