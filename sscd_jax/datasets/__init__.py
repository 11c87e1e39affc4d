"""Sets of images that copies are measured on: DISC2021, Copydays, and those made here."""
