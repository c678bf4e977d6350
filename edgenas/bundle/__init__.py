"""The folder that is handed to an app team: written, read, and every claim of it checked."""
