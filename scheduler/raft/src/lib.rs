//! coracle-raft
