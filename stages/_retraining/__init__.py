"""From a window in drift to another model: what watch and retrain share and do.

`records` keeps what was seen and tried, `labels` counts what a window has to learn from,
`incumbent` puts the model that serves beside the candidates, `teacher` measures the teacher on the
window, `overlay` changes params.yaml and back, `verdicts` reads what drift and select said.
docs/retraining.md.
"""
