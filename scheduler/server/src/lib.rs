//! coracle-server
