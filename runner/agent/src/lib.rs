//! coracle-agent
