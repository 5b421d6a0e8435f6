//! A sender that speaks raw frames, to a receiver that must survive it.
