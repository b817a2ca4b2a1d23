"""A trained model as a file that other programs open: a bioimage.io package, TorchScript or ONNX."""
