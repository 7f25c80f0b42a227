"""The ground: errors, settings, paths, files of users, progress. It knows nothing of encoders, data or protocols."""
