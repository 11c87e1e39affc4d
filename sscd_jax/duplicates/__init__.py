"""Which images of a collection are copies of one another: pairs, groups, and what to keep."""
