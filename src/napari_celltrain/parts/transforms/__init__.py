"""MONAI dictionary transforms for what MONAI has not. They import torch and MONAI: import them in builders only."""
