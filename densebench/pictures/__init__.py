"""Pictures of models side by side on chosen images: what features show, not what they score.

A kind is a room of pure functions, from tensors to arrays, with `show` for one model and `draw` for all; `kinds.py`
names them. Above the runner, whose models, data and errors it uses; below the command line.
"""
