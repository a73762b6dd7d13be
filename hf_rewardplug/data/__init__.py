"""Raw rows to batches: adapters -> canonical rows -> token ids with score positions -> tensors."""
