"""The memory of labelled patches that several kinds of pictures search: built once for a model."""

from __future__ import annotations

from dataclasses import replace

from densebench.pictures.view import Model
from densebench.protocols.common import memory
from densebench.protocols.common.memory import Memory
from densebench.protocols.hummingbird.protocol import Hummingbird, content_of


def class_memory(model: Model) -> Memory:
    """Return the memory of all training images that `hummingbird` fills."""
    if "classes" not in model.memories:
        config, data = replace(model.config(Hummingbird()), fractions=(1,)), model.data
        content = content_of(config, model.source.info.patch, data.train.info.n_classes)
        every = list(range(len(data.train)))
        model.memories["classes"] = memory.fit(
            config, model.source.info, data.train, every, content, model.context, "memory"
        )
    return model.memories["classes"]
