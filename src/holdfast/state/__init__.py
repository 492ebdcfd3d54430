"""Hold what a run consists of besides its model. Knows no trainer and no checkpoint file."""
