//! coracle-proxy
