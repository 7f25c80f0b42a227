"""The embedded dataset: small worlds rendered on the fly with ground truth for every protocol.

`render` draws one scene, `Scenes` (in `dataset.py`) is the dataset, `sheet.contact_sheet` shows both at a glance.
Reading order: labels, sketch, creatures, outdoors, indoors, stage, grounds, world, surfaces, render.
"""

from densebench.datasets.scenes.labels import CLASSES, KEYPOINTS, PALETTE, PARTS
from densebench.datasets.scenes.render import RENDERER_VERSION, ObjectKeypoints, Scene, render

__all__ = ["CLASSES", "KEYPOINTS", "PALETTE", "PARTS", "RENDERER_VERSION", "ObjectKeypoints", "Scene", "render"]
