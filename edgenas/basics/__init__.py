"""What every wing may use: errors, units, files. It knows nothing of networks."""
