"""The dock widget: three tabs that edit one value each, and the panel of the run."""
