//! coracle-route
