"""The leaderboard as one HTML file that is opened from disk: table, plots, classes, pictures, comparisons.

`data.py` makes what the page holds of rows and records, `lines.py`, `facts.py`, `extras.py`, `pairs.py` and
`pictures.py` parts of it; `render.py` puts it into the template with our style and scripts, `folder.py` all of it for a
results folder. `docs/page.md` says what a reader sees.
"""

from densebench.leaderboard.page.data import payload
from densebench.leaderboard.page.folder import folder_page
from densebench.leaderboard.page.render import page

__all__ = ["folder_page", "page", "payload"]
