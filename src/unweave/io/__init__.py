"""Files: checkpoints, masks, deletion requests, run folders. Everything is written beside, synced and renamed."""
