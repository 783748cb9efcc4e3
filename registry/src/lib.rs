//! coracle-registry
