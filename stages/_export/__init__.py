"""Models as ONNX for other servers, what runs them there, and the proof that they are the same."""
