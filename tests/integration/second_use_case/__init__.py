"""Another field, another folder, no code changed: the bikes from raw files to the proof, on real services."""
