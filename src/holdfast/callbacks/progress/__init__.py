"""Progress bars: what they show is decided in one place, each kind of bar only draws it."""

from holdfast.callbacks.progress.line import Line
from holdfast.callbacks.progress.progress_bar import ProgressBar
from holdfast.callbacks.progress.rich_progress import RichProgressBar, RichProgressBarTheme
from holdfast.callbacks.progress.tqdm_progress import TQDMProgressBar

__all__ = ["Line", "ProgressBar", "RichProgressBar", "RichProgressBarTheme", "TQDMProgressBar"]
