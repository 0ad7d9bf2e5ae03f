"""SageMaker, Vertex AI and Azure ML: their paths, their bodies, and how a key comes through."""
