"""The Python side of `dunlin import` and `dunlin compare`: what only the user's own Python can do.

    python -m dunlin_import REQUEST.json

`dunlin` writes these files to a temporary folder and runs them with the Python that trained the
model: loading the checkpoint (`checkpoint`), deciding what to feed it (`samples`), exporting it
(`onnx_route`, `torchscript_route`) and comparing each export with the original (`compare`); or
asking and timing the original itself (`original_route`). The request names a folder to write to;
nothing is written anywhere else. Standard output carries one JSON document a line (`report`); what
the user's code and PyTorch print goes to standard error.

It needs torch, numpy and Lightning, and onnx for the ONNX route. It writes safetensors itself.
"""
