"""What a number becomes when part of another run, or nothing, stands in a place: sweeps, paths, edges."""
