"""From a dataset and a plan to a trained package; the loop knows no tracker and no scheduler."""
