"""Training: the loop, `train.train`, and the modules that it uses."""
