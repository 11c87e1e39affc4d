"""Training: one loop, `train.train`, and what it needs."""
