"""Pure numerics: tensors in, tensors out; no files, no models, nothing of ours imported."""
