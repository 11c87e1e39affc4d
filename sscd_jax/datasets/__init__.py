"""Image sets on which copy detection is measured: DISC2021, Copydays, and sets that are made from any images."""
